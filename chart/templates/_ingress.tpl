{{/* An Ingress that leads some paths of a host to the Service of the same name. Takes root, component, suffix, host, paths, annotations. */}}
{{- define "moorline.ingress" -}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  {{- include "moorline.metadata" . | nindent 2 }}
  {{- with merge (dict) .root.Values.ingress.annotations .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  ingressClassName: {{ .root.Values.ingress.className }}
  {{- if .root.Values.tls.enabled }}
  tls:
    - hosts: [{{ .host }}]
      {{- with include "moorline.tlsSecretName" .root }}
      secretName: {{ . }}
      {{- end }}
  {{- end }}
  rules:
    - host: {{ .host }}
      http:
        paths:
          {{- range .paths }}
          - path: {{ .path }}
            pathType: {{ .pathType }}
            backend:
              service:
                name: {{ include "moorline.fullname" $.root }}-{{ $.suffix }}
                port: {name: http}
          {{- end }}
{{- end -}}

{{/* An HTTPRoute that leads some paths of a host to the Service of the same name. Takes root, component, suffix, host, parents, matches. */}}
{{- define "moorline.httpRoute" -}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  {{- include "moorline.metadata" . | nindent 2 }}
spec:
  parentRefs:
    {{- toYaml .parents | nindent 4 }}
  hostnames: [{{ .host }}]
  rules:
    - matches:
        {{- toYaml .matches | nindent 8 }}
      backendRefs:
        - {name: {{ include "moorline.fullname" .root }}-{{ .suffix }}, port: 8000}
{{- end -}}
