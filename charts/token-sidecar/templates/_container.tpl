{{/*
The sidecar's container, an item of a pod's initContainers (mode native) or containers (mode plain):

    initContainers:
      {{- include "token-sidecar.container" . | nindent 6 }}
    volumes:
      {{- include "token-sidecar.volumes" . | nindent 6 }}
*/}}
{{- define "token-sidecar.container" -}}
{{- $c := include "token-sidecar.context" . | fromJson -}}
{{- include "token-sidecar.check" (dict "context" $c "injection" false) -}}
{{- include "token-sidecar.containerOf" $c -}}
{{- end -}}

{{/* The same of values that are checked already. */}}
{{- define "token-sidecar.containerOf" -}}
{{- $v := .values -}}
- name: {{ .name }}
  image: {{ include "token-sidecar.image" . | quote }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- if eq $v.mode "native" }}
  restartPolicy: Always
  {{- end }}
  env:
    {{- include "token-sidecar.env" $v | nindent 4 }}
    {{- with $v.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  ports:
    - {name: token-admin, containerPort: {{ $v.ports.admin }}}
  {{- /* Start-up and liveness are asked by the program itself: Istio sends HTTP probes to a proxy that starts after this container. */}}
  {{- with $v.probes.startup }}
  startupProbe:
    exec: {command: [/token-sidecar, healthcheck]}
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.probes.readiness }}
  readinessProbe:
    httpGet: {{ dict "path" "/readyz" "port" "token-admin" | toJson }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.probes.liveness }}
  livenessProbe:
    exec: {command: [/token-sidecar, healthcheck]}
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- $always := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
    {{- toYaml (mergeOverwrite $always $v.securityContext) | nindent 4 }}
  volumeMounts:
    - {name: {{ .name }}, mountPath: /etc/token-sidecar, readOnly: true}
    {{- if $v.humanapi.csi }}
    - {name: {{ .name }}-csi, mountPath: /etc/token-sidecar-csi, readOnly: true}
    {{- end }}
    {{- if include "token-sidecar.shares" $v }}
    - {name: {{ .name }}-run, mountPath: /run/token-sidecar}
    {{- end }}
    {{- with $v.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}

{{- define "token-sidecar.env" -}}
{{- with .humanapi.clientId }}
- {name: HUMANAPI_CLIENT_ID, value: {{ . | quote }}}
{{- end }}
- {name: HUMANAPI_CLIENT_SECRET_FILE, value: {{ ternary (printf "/etc/token-sidecar-csi/%s" .humanapi.existingSecretKey) "/etc/token-sidecar/client-secret" (not (empty .humanapi.csi)) }}}
- {name: HUMANAPI_PRODUCT, value: {{ .humanapi.product }}}
{{- with .humanapi.authUrl }}
- {name: HUMANAPI_AUTH_URL, value: {{ . | quote }}}
{{- end }}
{{- if or .humanapi.ca.secret .humanapi.ca.configMap }}
- {name: HUMANAPI_CA_FILE, value: /etc/token-sidecar/humanapi-ca.crt}
{{- end }}
- {name: LISTEN_ADDR, value: {{ ternary "unix:///run/token-sidecar/token.sock" (printf "localhost:%v" .ports.token) (eq (toString .socket) "true") | quote }}}
- {name: ADMIN_ADDR, value: ":{{ .ports.admin }}"}
{{- with .redis.url }}
- {name: REDIS_URL, value: {{ . | quote }}}
{{- end }}
{{- if ne .redis.mode "single" }}
- {name: REDIS_MODE, value: {{ .redis.mode }}}
{{- end }}
{{- if .redis.existingSecret }}
- {name: REDIS_PASSWORD_FILE, value: /etc/token-sidecar/redis-password}
{{- end }}
{{- if or .redis.ca.secret .redis.ca.configMap }}
- {name: REDIS_CA_FILE, value: /etc/token-sidecar/redis-ca.crt}
{{- end }}
{{- if .callerToken.generate }}
- {name: CALLER_TOKEN_GENERATE, value: "true"}
- {name: CALLER_TOKEN_FILE, value: /run/token-sidecar/caller-token}
{{- else if .callerToken.existingSecret }}
- {name: CALLER_TOKEN_FILE, value: /etc/token-sidecar/caller-token}
{{- end }}
{{- if .encryptionKeys.existingSecret }}
- {name: ENCRYPTION_KEYS_FILE, value: /etc/token-sidecar/encryption-keys}
{{- end }}
{{- with .audit.log }}
- {name: AUDIT_LOG, value: {{ . | quote }}}
- {name: AUDIT_KEY_FILE, value: /etc/token-sidecar/audit-key}
{{- end }}
{{- if and (eq .mode "plain") (not (hasKey .settings "SHUTDOWN_DELAY")) }}
- {name: SHUTDOWN_DELAY, value: 10s}
{{- end }}
{{- range $name, $value := .settings }}
{{- if not (kindIs "invalid" $value) }}
- {name: {{ $name }}, value: {{ include "token-sidecar.text" $value | quote }}}
{{- end }}
{{- end }}
{{- $given := list -}}
{{- range .extraEnv }}{{- $given = append $given .name }}{{- end }}
{{- /* The status page tells by them which of many sidecars it is of. */}}
{{- range $name, $field := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" }}
{{- if not (has $name $given) }}
- {name: {{ $name }}, valueFrom: {fieldRef: {fieldPath: {{ $field }}}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether there is a volume that the app mounts too. */}}
{{- define "token-sidecar.shares" -}}
{{- if or .socket .callerToken.generate -}}true{{- end -}}
{{- end -}}

{{/*
How long the pod needs to end: in mode plain the sidecar gets SIGTERM with the app, serves for SHUTDOWN_DELAY, and then ends the
requests in progress.

    terminationGracePeriodSeconds: {{ include "token-sidecar.terminationGracePeriodSeconds" . }}
*/}}
{{- define "token-sidecar.terminationGracePeriodSeconds" -}}
{{- $v := (include "token-sidecar.context" . | fromJson).values -}}
{{- $delay := include "token-sidecar.text" ($v.settings.SHUTDOWN_DELAY | default (ternary "10s" "0s" (eq (toString $v.mode) "plain"))) -}}
{{- $timeout := include "token-sidecar.text" ($v.settings.SHUTDOWN_TIMEOUT | default "15s") -}}
{{- $ms := addf (include "token-sidecar.milliseconds" $delay | float64) (include "token-sidecar.milliseconds" $timeout | float64) -}}
{{- max 30 (add 5 (ceil (divf $ms 1000.0) | int)) -}}
{{- end -}}
