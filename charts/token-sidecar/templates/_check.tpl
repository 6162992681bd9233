{{/*
Fails with a sentence for each value that is wrong, all at once and in the same order each time. The program would refuse most of
them too, but in a pod, later. With (dict "context" . "injection" true) the client may be left to the annotations of pods.
*/}}
{{- define "token-sidecar.check" -}}
{{- $mistakes := include "token-sidecar.mistakes" . | trim | splitList "\n" | compact | uniq -}}
{{- with $mistakes -}}
{{- fail (printf "token-sidecar: the values have mistakes:\n  %s" (join "\n  " .)) -}}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.mistakes" -}}
{{- $v := .context.values -}}
{{- $env := list -}}
{{- range $v.extraEnv -}}{{- $env = append $env .name -}}{{- end -}}
{{- $settings := fromYaml .context.settings -}}
{{- include "token-sidecar.imageMistakes" (merge (dict "idle" .idle) $v) -}}
{{- if and (eq (toString $v.mode) "native") (semverCompare "<1.29.0-0" .context.kubernetes) }}
mode: native needs Kubernetes 1.29, this is {{ .context.kubernetes }}; set mode to plain
{{- end -}}
{{- range $name, $words := dict "mode" (list "native" "plain") "humanapi.product" (list "connect" "hip") "redis.mode" (list "single" "cluster" "sentinel") "image.pullPolicy" (list "Always" "IfNotPresent" "Never") "injection.failurePolicy" (list "Fail" "Ignore") -}}
{{- $value := $v -}}
{{- range splitList "." $name -}}{{- $value = get $value . -}}{{- end -}}
{{- if not (has $value $words) }}
{{ $name }}: {{ $value | default "" | quote }} is unknown; use {{ join " or " $words }}
{{- end -}}
{{- end -}}

{{- $h := $v.humanapi -}}
{{- if not (or $h.clientId .injection (has "HUMANAPI_CLIENT_ID" $env)) }}
humanapi.clientId: is missing; set it to the client_id of the service at Human API
{{- end -}}
{{- $secrets := list -}}
{{- range list "existingSecret" "csi" "clientSecret" -}}{{- if get $h . -}}{{- $secrets = append $secrets . -}}{{- end -}}{{- end -}}
{{- if and (not $secrets) (not .injection) }}
humanapi.existingSecret: is missing; name the Secret that holds the client secret
{{- end -}}
{{- if gt (len $secrets) 1 }}
humanapi.{{ last $secrets }}: is set beside humanapi.{{ first $secrets }}; keep one of them
{{- end -}}
{{- if and $h.csi (not $h.csi.driver) }}
humanapi.csi: names no driver; it is a CSI volume as a pod has it
{{- end -}}
{{- $host := "(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?" -}}
{{- if not (regexMatch (printf "^(https://%s/*|http://(localhost|127\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}|\\[::1\\])(:[0-9]{1,5})?/*)?$" $host) ($h.authUrl | default "")) }}
humanapi.authUrl: is not a URL of the form https://host, or http:// to loopback
{{- end -}}
{{- include "token-sidecar.redisMistakes" (dict "values" $v "env" $env "host" $host) -}}
{{- range $name, $ca := dict "humanapi.ca" $h.ca "redis.ca" $v.redis.ca -}}
{{- if and $ca.secret $ca.configMap }}
{{ $name }}: names a Secret and a ConfigMap; keep one of them
{{- end -}}
{{- end -}}
{{- range $name, $of := dict "humanapi.existingSecretKey" $h.existingSecretKey "redis.existingSecretKey" $v.redis.existingSecretKey "callerToken.existingSecretKey" $v.callerToken.existingSecretKey "encryptionKeys.existingSecretKey" $v.encryptionKeys.existingSecretKey "audit.existingSecretKey" $v.audit.existingSecretKey "humanapi.ca.key" $h.ca.key "redis.ca.key" $v.redis.ca.key -}}
{{- if not (regexMatch "^[-._a-zA-Z0-9]+$" ($of | default "")) }}
{{ $name }}: is no key of a Secret or ConfigMap; use letters, digits, '-', '_' and '.'
{{- end -}}
{{- end -}}
{{- if and $v.callerToken.generate $v.callerToken.existingSecret }}
callerToken.generate: is set beside callerToken.existingSecret; keep one of them
{{- end -}}
{{- if and $v.audit.log (not $v.audit.existingSecret) }}
audit.existingSecret: is missing; name the Secret with the key of the pseudonyms
{{- end -}}
{{- if and $v.audit.existingSecret (not $v.audit.log) }}
audit.existingSecret: is set but audit.log is not; set that to stdout or to a file
{{- end -}}
{{- if not (regexMatch "^(stdout|/[^\\s]+)?$" ($v.audit.log | default "")) }}
audit.log: is neither stdout nor an absolute path
{{- end -}}

{{- range $name := list "token" "admin" -}}
{{- $port := get $v.ports $name | toString -}}
{{- if not (regexMatch "^[0-9]{4,5}$" $port) }}
ports.{{ $name }}: is no port from 1024 to 65535; the sidecar is not root and takes no lower one
{{- else if or (lt (atoi $port) 1024) (gt (atoi $port) 65535) }}
ports.{{ $name }}: is no port from 1024 to 65535; the sidecar is not root and takes no lower one
{{- end -}}
{{- end -}}
{{- if and (not $v.socket) (eq (toString $v.ports.token) (toString $v.ports.admin)) }}
ports.admin: is the same as ports.token; choose another one
{{- end -}}
{{- include "token-sidecar.settingsMistakes" (dict "values" $v "settings" $settings "env" $env) -}}
{{- range $v.extraEnv -}}
{{- $rule := get $settings (.name | default "") -}}
{{- $text := and $rule (has .name (list "HUMANAPI_CLIENT_ID" "REDIS_URL")) -}}
{{- if not .name }}
extraEnv: an entry has no name
{{- else if hasKey $v.settings .name }}
extraEnv: {{ .name }} is among settings too; keep one of them
{{- else if and (eq .name "HUMANAPI_CLIENT_ID") $h.clientId }}
extraEnv: HUMANAPI_CLIENT_ID is set beside humanapi.clientId; keep one of them
{{- else if and (eq .name "REDIS_URL") $v.redis.url }}
extraEnv: REDIS_URL is set beside redis.url; keep one of them
{{- else if and $rule (not .valueFrom) }}
extraEnv: {{ .name }} is a setting of the sidecar; use {{ $rule.value | default (printf "settings.%s" .name) }}
{{- else if and $rule $rule.value (not $text) }}
extraEnv: {{ .name }} has a value of its own in the chart; use {{ $rule.value }}
{{- end -}}
{{- end -}}
{{- if gt (len $env) (len (uniq $env)) }}
extraEnv: a name is there twice
{{- end -}}
{{- end -}}

{{- define "token-sidecar.imageMistakes" -}}
{{- if and .idle (not .image.repository) -}}
{{- else if not .image.repository }}
image.repository: is missing; push the image to your registry (make image-push) and name it, or take a released chart, which does
{{- else if not (regexMatch "^[a-z0-9]+([._:/-]+[a-z0-9]+)*$" (list (.global.imageRegistry | default .image.registry) .image.repository | compact | join "/")) }}
image.repository: is no image without a tag; it has small letters, digits and '.', '_', '-', '/'
{{- end -}}
{{- if not (regexMatch "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$" (.image.tag | default "" | toString)) }}
image.tag: is no tag; it has letters, digits and '.', '_', '-'
{{- end -}}
{{- if not (regexMatch "^(sha256:[0-9a-f]{64})?$" (.image.digest | default "")) }}
image.digest: is no digest; it is sha256: and 64 hexadecimal digits
{{- end -}}
{{- end -}}

{{- define "token-sidecar.redisMistakes" -}}
{{- $v := .values -}}
{{- $url := $v.redis.url | default "" -}}
{{- if regexMatch "^[^@]*//[^@/]*:[^@/]*@" $url }}
redis.url: holds a password; put that into a Secret, and its name into redis.existingSecret
{{- else if not (regexMatch (printf "^(rediss?://([^:@/?#\\s%%]+@)?%s(/[0-9]{0,5})?(\\?[a-z_]+=[^&#\\s%%;]+(&[a-z_]+=[^&#\\s%%;]+)*)?)?$" .host) $url) }}
redis.url: is not a Redis URL; use redis://host:6379/0, or rediss:// for TLS
{{- else if $url -}}
{{- $known := get (dict "single" (list "db" "pool_size") "cluster" (list "addr" "pool_size") "sentinel" (list "addr" "master_name" "db" "pool_size")) (toString $v.redis.mode) | default list -}}
{{- range regexSplit "[?&]" $url -1 | rest -}}
{{- if not (has (regexFind "^[a-z_]+" .) $known) }}
redis.url: {{ regexFind "^[a-z_]+" . }} is no option with redis.mode {{ $v.redis.mode }}; use {{ join " or " $known }}
{{- else if and (hasPrefix "addr=" .) (not (regexMatch (printf "^addr=%s$" (trimSuffix "?" $.host)) .)) }}
redis.url: addr takes host:port
{{- else if and (or (hasPrefix "pool_size=" .) (hasPrefix "db=" .)) (not (regexMatch "=[0-9]{1,5}$" .)) }}
redis.url: {{ regexFind "^[a-z_]+" . }} takes a number
{{- end -}}
{{- end -}}
{{- if and (eq (toString $v.redis.mode) "sentinel") (not (contains "master_name=" $url)) }}
redis.url: names no master; add ?master_name=mymaster
{{- end -}}
{{- end -}}
{{- if not (or $url (has "REDIS_URL" .env)) -}}
{{- if $v.redis.existingSecret }}
redis.existingSecret: is set but redis.url is not; set that, or leave both out
{{- end -}}
{{- if or $v.redis.ca.secret $v.redis.ca.configMap }}
redis.ca: is set but redis.url is not; set that, or leave both out
{{- end -}}
{{- else if and (or $v.redis.ca.secret $v.redis.ca.configMap) $url (not (hasPrefix "rediss://" $url)) }}
redis.ca: needs TLS; begin redis.url with rediss://
{{- end -}}
{{- end -}}
