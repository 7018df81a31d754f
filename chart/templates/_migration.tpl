{{/*
The migration comes before an upgrade (a hook: where it fails, nothing is changed) whenever what it needs is in the cluster
as these values have it, a bundled database that runs included. Otherwise, as on the first install, it comes with the other
objects, and the pods wait for it. A hook after the install would not do: `helm install --wait` waits for the pods first.
*/}}
{{- define "moorline.migration.isHook" -}}
{{- $fullname := include "moorline.fullname" . -}}
{{- $namespace := .Release.Namespace -}}
{{- $account := lookup "v1" "ServiceAccount" $namespace $fullname -}}
{{- $database := true -}}
{{- if .Values.postgres.enabled -}}
{{- $found := lookup "apps/v1" "StatefulSet" $namespace (printf "%s-postgres" $fullname) -}}
{{- $database = get (get $found "status" | default dict) "readyReplicas" -}}
{{- end -}}
{{- $secrets := true -}}
{{- if not .Values.secrets.existingSecret -}}
{{- $secrets = lookup "v1" "Secret" $namespace $fullname -}}
{{- end -}}
{{- $external := true -}}
{{- with include "moorline.externalSecretData" . -}}
{{- $found := lookup "v1" "Secret" $namespace (printf "%s-external" $fullname) -}}
{{- $external = eq (get $found "data" | default dict | toJson) (. | fromYaml | toJson) -}}
{{- end -}}
{{- if and .Release.IsUpgrade $account $database $secrets $external -}}
true
{{- end -}}
{{- end -}}

{{- define "moorline.migration.pod" -}}
{{- include "moorline.pod" . }}
restartPolicy: Never
terminationGracePeriodSeconds: 30
containers:
  - name: migration
    {{- include "moorline.container" . | nindent 4 }}
    command: [sh, -c]
    args:
      - |
        set -e
        trap 'exit 143' TERM
        python manage.py await_database --timeout {{ .role.timeoutSeconds }}
        python manage.py migrate --no-input
        python manage.py create_admin
    env:
      {{- include "moorline.environment" (merge (dict "variables" (include "moorline.migration.variables" .)) .) | nindent 6 }}
    resources:
      {{- toYaml .role.resources | nindent 6 }}
{{- end -}}

{{- define "moorline.migration.variables" -}}
- {name: MOORLINE_ADMIN_USERNAME, value: {{ .root.Values.admin.username | quote }}}
- name: MOORLINE_ADMIN_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "moorline.secretName" .root }}, key: admin-password}}
{{- end -}}
