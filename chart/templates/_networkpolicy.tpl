{{/* The metadata and the pods of a policy. Takes root, component and suffix. */}}
{{- define "moorline.policyHead" -}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "moorline.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "moorline.selector" . | nindent 6 }}
{{- end -}}

{{/* Rules for who comes to the web port, and for the metrics. */}}
{{- define "moorline.webRules" -}}
- ports: [{port: 8000}]
  {{- with .Values.networkPolicy.from }}
  from:
    {{- toYaml . | nindent 4 }}
    - podSelector:
        matchLabels:
          {{- include "moorline.selector" (dict "root" $ "component" "test") | nindent 10 }}
  {{- end }}
{{- if .Values.metrics.enabled }}
- ports: [{port: 9090}]
  {{- with .Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The policy of a store: only Moorline's own pods come in, and nothing goes out. Takes root, component, suffix, port. */}}
{{- define "moorline.storePolicy" -}}
{{ include "moorline.policyHead" . }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: {{ .port }}}]
      from:
        - podSelector:
            matchLabels:
              {{- omit (include "moorline.selector" . | fromYaml) "app.kubernetes.io/component" | toYaml | nindent 14 }}
            matchExpressions:
              - {key: app.kubernetes.io/component, operator: In, values: [portal, gateway, worker, beat, watch, migration]}
  egress: []
{{- end -}}
