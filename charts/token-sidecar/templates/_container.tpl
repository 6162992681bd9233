{{/*
The sidecar's container, an item of a pod's initContainers (mode native) or containers (mode plain):

    initContainers:
      {{- include "token-sidecar.container" . | nindent 6 }}
    volumes:
      {{- include "token-sidecar.volumes" . | nindent 6 }}
*/}}
{{- define "token-sidecar.container" -}}
{{- $values := include "token-sidecar.values" . | fromYaml -}}
{{- include "token-sidecar.check" $values -}}
{{- if and (eq $values.mode "native") (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "mode native needs Kubernetes 1.29, this is %s; set mode to plain" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
- name: token-sidecar
  image: {{ include "token-sidecar.image" $values | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- if eq $values.mode "native" }}
  restartPolicy: Always
  {{- end }}
  env:
    {{- include "token-sidecar.env" $values | nindent 4 }}
  ports:
    - {name: token-admin, containerPort: {{ $values.ports.admin }}}
  {{- $admin := dict "path" "/readyz" "port" (int $values.ports.admin) }}
  startupProbe:
    httpGet: {{ toJson $admin }}
    {{- toYaml $values.probes.startup | nindent 4 }}
  readinessProbe:
    httpGet: {{ toJson $admin }}
    {{- toYaml $values.probes.readiness | nindent 4 }}
  livenessProbe:
    httpGet: {{ toJson (set (deepCopy $admin) "path" "/livez") }}
    {{- toYaml $values.probes.liveness | nindent 4 }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- $always := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
    {{- toYaml (mergeOverwrite $always $values.securityContext) | nindent 4 }}
  volumeMounts:
    - {name: token-sidecar, mountPath: /etc/token-sidecar, readOnly: true}
{{- end -}}

{{- define "token-sidecar.env" -}}
- {name: HUMANAPI_CLIENT_ID, value: {{ .humanapi.clientId | quote }}}
- {name: HUMANAPI_CLIENT_SECRET_FILE, value: /etc/token-sidecar/client-secret}
- {name: HUMANAPI_PRODUCT, value: {{ .humanapi.product }}}
{{- with .humanapi.authUrl }}
- {name: HUMANAPI_AUTH_URL, value: {{ . | quote }}}
{{- end }}
- {name: LISTEN_ADDR, value: "127.0.0.1:{{ .ports.token }}"}
- {name: ADMIN_ADDR, value: ":{{ .ports.admin }}"}
{{- with .redis.url }}
- {name: REDIS_URL, value: {{ . | quote }}}
- {name: REDIS_MODE, value: {{ $.redis.mode }}}
{{- end }}
{{- if .redis.existingSecret }}
- {name: REDIS_PASSWORD_FILE, value: /etc/token-sidecar/redis-password}
{{- end }}
{{- if .callerToken.existingSecret }}
- {name: CALLER_TOKEN_FILE, value: /etc/token-sidecar/caller-token}
{{- end }}
{{- if .encryptionKeys.existingSecret }}
- {name: ENCRYPTION_KEYS_FILE, value: /etc/token-sidecar/encryption-keys}
{{- end }}
{{- range $name, $value := .settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{/* The volume with the secrets as files, which are read again when they change: no restart. */}}
{{- define "token-sidecar.volumes" -}}
{{- $values := include "token-sidecar.values" . | fromYaml -}}
- name: token-sidecar
  projected:
    defaultMode: 0444 # the sidecar alone mounts it; its user is not root
    sources:
      - secret: {name: {{ include "token-sidecar.secretName" . | quote }}, items: [{key: {{ $values.humanapi.existingSecretKey | quote }}, path: client-secret}]}
      {{- with $values.redis.existingSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: {{ $values.redis.existingSecretKey | quote }}, path: redis-password}]}
      {{- end }}
      {{- with $values.callerToken.existingSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: {{ $values.callerToken.existingSecretKey | quote }}, path: caller-token}]}
      {{- end }}
      {{- with $values.encryptionKeys.existingSecret }}
      - secret: {name: {{ . | quote }}, items: [{key: {{ $values.encryptionKeys.existingSecretKey | quote }}, path: encryption-keys}]}
      {{- end }}
{{- end -}}
