{{/* What every one of Moorline's own containers is told. Takes root. */}}
{{- define "moorline.commonVariables" -}}
{{- $values := .root.Values -}}
{{- $fullname := include "moorline.fullname" .root -}}
{{- $secret := include "moorline.secretName" .root -}}
- {name: MOORLINE_TARGET, value: kubernetes}
- {name: MOORLINE_INSTALLATION, value: {{ .root.Release.Name | quote }}}
- name: MOORLINE_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
{{- with $values.tunnelsNamespace }}
- {name: MOORLINE_TUNNELS_NAMESPACE, value: {{ . | quote }}}
{{- end }}
- {name: MOORLINE_INLETS_COMPATIBLE, value: {{ $values.inletsCompatible | ternary "1" "0" | quote }}}
- {name: MOORLINE_PUBLIC_URL, value: {{ include "moorline.url" .root | quote }}}
- {name: MOORLINE_CONNECT_URL, value: {{ include "moorline.connectUrl" .root | quote }}}
- {name: MOORLINE_TRUST_PROXY, value: "1"}
- {name: MOORLINE_TRUSTED_PROXIES, value: {{ join "," $values.trustedProxies | quote }}}
- {name: MOORLINE_LISTEN_PORTS, value: {{ $values.listenPorts | quote }}}
- {name: MOORLINE_PORT_QUARANTINE, value: {{ $values.portQuarantineSeconds | quote }}}
- {name: MOORLINE_NETWORK_POLICIES, value: {{ $values.networkPolicy.enabled | ternary "1" "0" | quote }}}
- {name: MOORLINE_GATEWAY_LABELS, value: {{ include "moorline.selector" (dict "root" .root "component" "gateway") | replace ": " "=" | replace "\n" "," | replace "\"" "" | quote }}}
- {name: MOORLINE_LOG_FORMAT, value: {{ $values.logs.format | quote }}}
- {name: MOORLINE_LOG_LEVEL, value: {{ $values.logs.level | quote }}}
- {name: MOORLINE_DATA, value: /tmp/moorline}
- name: MOORLINE_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: secret-key}}
{{- if $values.postgres.enabled }}
- name: POSTGRES_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: postgres-password}}
- {name: MOORLINE_DATABASE_URL, value: "postgres://moorline:$(POSTGRES_PASSWORD)@{{ $fullname }}-postgres:5432/moorline"}
{{- else }}
- name: MOORLINE_DATABASE_URL
  valueFrom: {secretKeyRef: {{ include "moorline.externalKey" (dict "root" .root "external" $values.externalDatabase "key" "database-url") }}}
{{- end }}
{{- if $values.valkey.enabled }}
- name: VALKEY_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: valkey-password}}
- {name: MOORLINE_REDIS_URL, value: "redis://:$(VALKEY_PASSWORD)@{{ $fullname }}-valkey:6379/0"}
{{- else }}
- name: MOORLINE_REDIS_URL
  valueFrom: {secretKeyRef: {{ include "moorline.externalKey" (dict "root" .root "external" $values.externalRedis "key" "redis-url") }}}
{{- end }}
{{- end -}}

{{/* Where the URL of a database or Valkey of somebody else's is: in a Secret of theirs, or in the one that holds the values. */}}
{{- define "moorline.externalKey" -}}
{{- if .external.existingSecret -}}
{name: {{ .external.existingSecret }}, key: {{ .external.existingSecretKey }}}
{{- else -}}
{name: {{ include "moorline.fullname" .root }}-external, key: {{ .key }}}
{{- end -}}
{{- end -}}

{{/*
All environment variables of a container: the common ones, its own (a text), and those of the values. Of two with one name
the later one counts, and the other is left out: the API server refuses a list with both.
*/}}
{{- define "moorline.environment" -}}
{{- $all := concat (include "moorline.commonVariables" . | fromYamlArray) (.variables | default "" | fromYamlArray) .root.Values.extraEnv .role.extraEnv -}}
{{- $last := dict -}}
{{- range $index, $variable := $all -}}
{{- $_ := set $last $variable.name $index -}}
{{- end -}}
{{- $kept := list -}}
{{- range $index, $variable := $all -}}
{{- if eq (get $last $variable.name) $index -}}
{{- $kept = append $kept $variable -}}
{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/*
The key that Moorline signs with, in base64: as the cluster has it, or generated now, once for all templates. Empty where a
Secret of somebody else's is to hold it and can't be seen from here.
*/}}
{{- define "moorline.secretKey" -}}
{{- if not (hasKey .Values "keptSecretKey") -}}
{{- $kept := get (lookup "v1" "Secret" .Release.Namespace (include "moorline.secretName" .)) "data" | default dict -}}
{{- $generated := .Values.secrets.existingSecret | empty | ternary (randAlphaNum 64 | b64enc) "" -}}
{{- $_ := set .Values "keptSecretKey" (get $kept "secret-key" | default $generated) -}}
{{- end -}}
{{- get .Values "keptSecretKey" -}}
{{- end -}}

{{/*
Pods start anew when the values name or hold another secret; what is generated never changes. Anybody who may read pods sees
this: what is secret counts only together with a key that nobody can guess.
*/}}
{{- define "moorline.secretChecksum" -}}
{{- $key := include "moorline.secretKey" . -}}
{{- $named := list .Values.secrets (omit .Values.externalDatabase "url") (omit .Values.externalRedis "url") -}}
{{- $secret := $key | empty | ternary list (list $key .Values.externalDatabase.url .Values.externalRedis.url) -}}
checksum/secrets: {{ list $named $secret | toJson | sha256sum | trunc 16 | quote }}
{{- end -}}

{{/* URLs that the values hold: data of the Secret for them, empty without any. */}}
{{- define "moorline.externalSecretData" -}}
{{- if and (not .Values.postgres.enabled) (not .Values.externalDatabase.existingSecret) }}
database-url: {{ .Values.externalDatabase.url | b64enc | quote }}
{{- end }}
{{- if and (not .Values.valkey.enabled) (not .Values.externalRedis.existingSecret) }}
redis-url: {{ .Values.externalRedis.url | b64enc | quote }}
{{- end }}
{{- end -}}
