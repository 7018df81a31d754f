{{/* One set of gateways: the shared ones, or dedicated ones. Takes root, role (its values), name, and customers for dedicated ones. */}}
{{- define "moorline.gateway" -}}
{{- $role := .role -}}
{{- $suffix := .customers | empty | ternary "gateway" (printf "gateway-%s" .name) -}}
{{- $scope := dict "root" .root "component" "gateway" "gateway" .name "suffix" $suffix "role" $role "spread" true -}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "moorline.metadata" $scope | nindent 2 }}
spec:
  {{- if not $role.autoscaling.enabled }}
  replicas: {{ $role.replicas }}
  {{- end }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels:
      {{- include "moorline.selector" $scope | nindent 6 }}
  template:
    metadata:
      {{- include "moorline.podMetadata" (merge (dict "annotations" (include "moorline.secretChecksum" .root | fromYaml)) $scope) | nindent 6 }}
    spec:
      {{- include "moorline.pod" $scope | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "moorline.gateway.gracePeriod" . }}
      {{- include "moorline.waitForMigration" $scope | nindent 6 }}
      containers:
        - name: gateway
          {{- include "moorline.container" $scope | nindent 10 }}
          command: [python, manage.py, serve, --role, gateway, --bind, 0.0.0.0]
          env:
            {{- include "moorline.environment" (merge (dict "variables" (include "moorline.gateway.variables" .)) $scope) | nindent 12 }}
          ports:
            - {name: http, containerPort: 8000}
            - {name: hop, containerPort: 8001}
            {{- with include "moorline.metricsPort" .root }}
            {{- . | nindent 12 }}
            {{- end }}
          {{- include "moorline.httpProbes" .root | nindent 10 }}
          lifecycle:
            # The ingress controller learns meanwhile that clients are to dial other pods.
            preStop: {exec: {command: [sleep, "{{ include "moorline.gateway.preStop" . }}"]}}
          resources:
            {{- toYaml $role.resources | nindent 12 }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "moorline.metadata" $scope | nindent 2 }}
  {{- with $role.serviceAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $role.serviceType }}
  ports:
    - {name: http, port: 8000, targetPort: http, appProtocol: http}
  selector:
    {{- include "moorline.selector" $scope | nindent 4 }}
{{ include "moorline.podDisruptionBudget" $scope }}
{{- with $role.autoscaling }}
{{- if .enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "moorline.metadata" $scope | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "moorline.fullname" $.root }}-{{ $suffix }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .targetCPUUtilizationPercentage }}}
  behavior:
    # A pod that goes away ends streams, so a lull has to last.
    scaleDown:
      stabilizationWindowSeconds: 900
      policies:
        - {type: Pods, value: 1, periodSeconds: 300}
{{- end }}
{{- end }}
{{- end -}}

{{- define "moorline.gateway.variables" -}}
- name: MOORLINE_GATEWAY_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
- name: MOORLINE_GATEWAY_ADDRESS
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}
{{- with .customers }}
- {name: MOORLINE_GATEWAY_CUSTOMERS, value: {{ join "," . | quote }}}
{{- end }}
- {name: MOORLINE_LISTEN_HOST, value: 0.0.0.0}
- {name: MOORLINE_DRAIN_TIMEOUT, value: {{ .role.drainTimeoutSeconds | quote }}}
- {name: MOORLINE_LISTENER_LINGER, value: {{ .role.listenerLingerSeconds | quote }}}
- {name: MOORLINE_HOP_PORT, value: "8001"}
- name: MOORLINE_HOP_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "moorline.secretName" .root }}, key: hop-secret}}
{{ include "moorline.metricsVariable" .root }}
{{- end -}}

{{/* Seconds between a pod's leaving its Service and SIGTERM. */}}
{{- define "moorline.gateway.preStop" -}}5{{- end -}}

{{/* Ten seconds more than all that may come one after the other: what is left is ended then, and the database told. */}}
{{- define "moorline.gateway.gracePeriod" -}}
{{- $whose := .customers | empty | ternary "gateway" (printf "The dedicated gateway %s" .name) -}}
{{- if gt (.role.listenerLingerSeconds | int) (.role.drainTimeoutSeconds | int) -}}
{{- fail (printf "%s has listenerLingerSeconds %d: no more than drainTimeoutSeconds, %d, can be had of it." $whose (.role.listenerLingerSeconds | int) (.role.drainTimeoutSeconds | int)) -}}
{{- end -}}
{{- $needed := add (include "moorline.gateway.preStop" .) .role.listenerLingerSeconds .role.drainTimeoutSeconds 10 | int -}}
{{- $given := .role.terminationGracePeriodSeconds | int -}}
{{- if and $given (lt $given $needed) -}}
{{- fail (printf "%s has terminationGracePeriodSeconds %d: its pods would be killed while they drain. Set it to %d or more, or to 0." $whose $given $needed) -}}
{{- end -}}
{{- $given | default $needed -}}
{{- end -}}

{{/* The values of a dedicated gateway: those of the shared ones, with its own in front. */}}
{{- define "moorline.gateway.dedicatedRole" -}}
{{- mergeOverwrite (deepCopy .root.Values.gateway) (omit .dedicated "name" "customers") | toYaml -}}
{{- end -}}
