{{/* The volumes of the sidecar: its secrets as files, which are read again when they change, and what it shares with the app. */}}
{{- define "token-sidecar.volumes" -}}
{{- $c := include "token-sidecar.context" . | fromJson -}}
{{- include "token-sidecar.check" (dict "context" $c "injection" false) -}}
{{- include "token-sidecar.volumesOf" $c -}}
{{- end -}}

{{/* The same of values that are checked already. */}}
{{- define "token-sidecar.volumesOf" -}}
{{- $v := .values -}}
{{- $sources := list -}}
{{- if not $v.humanapi.csi -}}
{{- $sources = append $sources (include "token-sidecar.file" (list "secret" (include "token-sidecar.secretName" .) $v.humanapi.existingSecretKey "client-secret") | fromYaml) -}}
{{- end -}}
{{- $generates := ternary dict $v.callerToken (eq (toString $v.callerToken.generate) "true") -}}
{{- range list (list $v.redis "redis-password") (list $generates "caller-token") (list $v.encryptionKeys "encryption-keys") (list $v.audit "audit-key") -}}
{{- $of := first . -}}
{{- if $of.existingSecret -}}
{{- $sources = append $sources (include "token-sidecar.file" (list "secret" $of.existingSecret $of.existingSecretKey (last .)) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- range list (list $v.humanapi.ca "humanapi-ca.crt") (list $v.redis.ca "redis-ca.crt") -}}
{{- $ca := first . -}}
{{- $file := last . -}}
{{- range $kind, $name := dict "secret" $ca.secret "configMap" $ca.configMap -}}
{{- if $name -}}
{{- $sources = append $sources (include "token-sidecar.file" (list $kind $name $ca.key $file) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- end -}}
- name: {{ .name }}
  projected:
    defaultMode: 0444 # the sidecar alone mounts it; its user is not root
    sources: {{- toYaml $sources | nindent 6 }}
{{- with $v.humanapi.csi }}
- name: {{ $.name }}-csi
  csi: {{- toYaml . | nindent 4 }}
{{- end }}
{{- if include "token-sidecar.shares" $v }}
- name: {{ .name }}-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A source of a projected volume: (list kind name key path). */}}
{{- define "token-sidecar.file" -}}
{{ first . }}: {name: {{ index . 1 | quote }}, items: [{key: {{ index . 2 | quote }}, path: {{ index . 3 | quote }}}]}
{{- end -}}

{{/*
Items of the app's volumeMounts, with socket or callerToken.generate; else nothing:

    volumeMounts:
      {{- include "token-sidecar.appVolumeMounts" . | nindent 6 }}
*/}}
{{- define "token-sidecar.appVolumeMounts" -}}
{{- $c := include "token-sidecar.context" . | fromJson -}}
{{- if include "token-sidecar.shares" $c.values -}}
- {name: {{ $c.name }}-run, mountPath: /run/token-sidecar, readOnly: true}
{{- end -}}
{{- end -}}

{{/* The Secret with the client secret. */}}
{{- define "token-sidecar.secretName" -}}
{{- .values.humanapi.existingSecret | default .fullname -}}
{{- end -}}

{{/* The labels by which pods opt in to injection. */}}
{{- define "token-sidecar.podLabels" -}}
{{- .injection.podLabels | default (dict "token-sidecar/inject" "true") | toYaml -}}
{{- end -}}
