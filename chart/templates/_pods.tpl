{{- define "moorline.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* How a container runs, whichever it is. Takes root. */}}
{{- define "moorline.container" -}}
image: {{ include "moorline.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- with .root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Where a pod may run. Takes root, component, role, spread (may it be spread), and for a gateway its name. */}}
{{- define "moorline.scheduling" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .role.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
  {{- if .role.topologySpreadConstraints }}
  {{- toYaml .role.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "moorline.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The part of a pod's spec that Moorline's own pods share. Takes what moorline.scheduling takes, and account. */}}
{{- define "moorline.pod" -}}
serviceAccountName: {{ include "moorline.fullname" .root }}{{ with .account }}-{{ . }}{{ end }}
automountServiceAccountToken: {{ .account | empty | not }}
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with include "moorline.scheduling" . | trim }}
{{ . }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Hold a pod back until the database has the tables that this version of Moorline expects. */}}
{{- define "moorline.waitForMigration" -}}
initContainers:
  - name: wait-for-migration
    {{- include "moorline.container" . | nindent 4 }}
    command: [python, manage.py, await_database, --migrated, --timeout, "{{ .root.Values.migration.timeoutSeconds }}"]
    env:
      {{- include "moorline.environment" . | nindent 6 }}
    resources:
      {{- toYaml .root.Values.migration.resources | nindent 6 }}
{{- end -}}

{{/* Probes of a role that serves HTTP on port 8000. */}}
{{- define "moorline.httpProbes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 6
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Probes of a role that touches a file at least every 15 seconds. */}}
{{- define "moorline.fileProbes" -}}
startupProbe:
  exec: {command: [test, -e, /tmp/alive]}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  exec: {command: [sh, -c, "find /tmp/alive -mmin -1 | grep -q ."]}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "moorline.podDisruptionBudget" -}}
{{- if .root.Values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "moorline.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .root.Values.podDisruptionBudget.maxUnavailable }}
  # A pod that does not get ready keeps no node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "moorline.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "moorline.metricsVariable" -}}
{{- if .Values.metrics.enabled -}}
- {name: MOORLINE_METRICS_PORT, value: "9090"}
{{- end -}}
{{- end -}}

{{- define "moorline.metricsPort" -}}
{{- if .Values.metrics.enabled -}}
- {name: metrics, containerPort: 9090}
{{- end -}}
{{- end -}}

{{- define "moorline.aliveVariable" -}}
- {name: MOORLINE_ALIVE_FILE, value: /tmp/alive}
{{- end -}}

{{/* The volume of a StatefulSet; it stays when the release is uninstalled. */}}
{{- define "moorline.volumeClaim" -}}
{{- with .role.persistence -}}
{{- if .enabled -}}
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: data
      labels:
        {{- include "moorline.selector" $ | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests: {storage: {{ .size }}}
{{- end -}}
{{- end -}}
{{- end -}}
