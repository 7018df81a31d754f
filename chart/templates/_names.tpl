{{- define "moorline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that every suffix fits into a Service's name. */}}
{{- define "moorline.fullname" -}}
{{- $name := include "moorline.name" . -}}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $default .Values.fullnameOverride | trunc 34 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the pods of a role. Takes root and component, and for a gateway its name. */}}
{{- define "moorline.selector" -}}
app.kubernetes.io/name: {{ include "moorline.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .gateway }}
moorline.dev/gateway: {{ . }}
{{- end }}
{{- end -}}

{{- define "moorline.labels" -}}
{{- $labels := include "moorline.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "moorline" -}}
{{- $_ := set $labels "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- merge $labels (.more | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* The metadata of an object. Takes root, component, suffix, namespace where it is not the release's, and more labels. */}}
{{- define "moorline.metadata" -}}
name: {{ include "moorline.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "moorline.labels" . | nindent 2 }}
{{- end -}}

{{/*
The metadata of a pod. Takes root, component, role (its values), and for a gateway its name. No versions: pods of PostgreSQL
do not start anew because Moorline has a new one.
*/}}
{{- define "moorline.podMetadata" -}}
labels:
  {{- merge (include "moorline.selector" . | fromYaml) .role.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge dict (.annotations | default dict) .role.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "moorline.secretName" -}}
{{- .Values.secrets.existingSecret | default (include "moorline.fullname" .) -}}
{{- end -}}

{{- define "moorline.tlsSecretName" -}}
{{- if .Values.tls.secretName -}}
{{ .Values.tls.secretName }}
{{- else if or .Values.certManager.enabled (eq .Values.ingress.type "istio") (eq .Values.ingress.type "gatewayApi") -}}
{{ include "moorline.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "moorline.url" -}}
{{ .Values.tls.enabled | ternary "https" "http" }}://{{ .Values.domain }}
{{- end -}}

{{- define "moorline.clientHost" -}}
{{- .Values.clientDomain | default .Values.domain -}}
{{- end -}}

{{- define "moorline.connectUrl" -}}
{{ .Values.tls.enabled | ternary "https" "http" }}://{{ include "moorline.clientHost" . }}
{{- end -}}

{{/* The hosts that browsers and clients ask for, as a list in JSON. */}}
{{- define "moorline.hosts" -}}
{{- list .Values.domain (include "moorline.clientHost" .) | uniq | toJson -}}
{{- end -}}

{{/* The first parts of the portal's paths on a host that it shares with the gateways; customers can't have these names. */}}
{{- define "moorline.portalPaths" -}}
{{- list "accounts" "admin" "api" "claim" "dashboard" "live" "login" "logout" "static" "status" | toJson -}}
{{- end -}}

{{/* The Services that answer on port 8000, as a list in JSON. */}}
{{- define "moorline.webServices" -}}
{{- $fullname := include "moorline.fullname" . -}}
{{- $names := list (printf "%s-portal" $fullname) (printf "%s-gateway" $fullname) -}}
{{- range .Values.dedicatedGateways -}}
{{- $names = append $names (printf "%s-gateway-%s" $fullname .name) -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}
