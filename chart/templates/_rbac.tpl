{{/* The API groups whose Tunnel resources are served, as a list in JSON. */}}
{{- define "moorline.tunnelGroups" -}}
{{- .Values.inletsCompatible | ternary (list "moorline.dev" "uplink.inlets.dev") (list "moorline.dev") | toJson -}}
{{- end -}}

{{/* What the worker writes into customers' namespaces. Secrets it reads by name only. */}}
{{- define "moorline.rules.worker" -}}
- apiGroups: [""]
  resources: [services, resourcequotas]
  verbs: [list, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, create, patch, delete]
{{ include "moorline.rules.policies" . }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
- apiGroups: [moorline.dev]
  resources: [tunnels]
  verbs: [get, list, create, patch, delete]
{{- if .Values.inletsCompatible }}
- apiGroups: [uplink.inlets.dev]
  resources: [tunnels]
  verbs: [list]
{{- end }}
- apiGroups: {{ include "moorline.tunnelGroups" . }}
  resources: [tunnels/status]
  verbs: [patch]
{{- end -}}

{{/* What the worker writes into the gateways' namespace. */}}
{{- define "moorline.rules.policies" -}}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, create, patch, delete]
{{- end -}}

{{- define "moorline.rules.watch" -}}
- apiGroups: {{ include "moorline.tunnelGroups" . }}
  resources: [tunnels]
  verbs: [get, list, watch]
- apiGroups: {{ include "moorline.tunnelGroups" . }}
  resources: [tunnels/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* What is done with namespaces. Takes the verbs. */}}
{{- define "moorline.rules.namespaces" -}}
- apiGroups: [""]
  resources: [namespaces]
  verbs: {{ toJson . }}
{{- end -}}

{{/* How one of several that watch becomes the one that leads. */}}
{{- define "moorline.rules.lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, patch]
{{- end -}}

{{/* A role and its binding. Takes root, account, name, namespace (none: for the whole cluster), and rules (a text). */}}
{{- define "moorline.role" -}}
{{- $name := printf "%s-%s" (include "moorline.fullname" .root) .name -}}
{{- $kind := .namespace | empty | ternary "ClusterRole" "Role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "moorline.labels" (dict "root" .root "component" .account) | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "moorline.labels" (dict "root" .root "component" .account) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "moorline.fullname" .root }}-{{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
