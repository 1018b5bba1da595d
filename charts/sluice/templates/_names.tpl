{{/* Names and labels. The operator's objects are called `<release>-operator`, where the release names Sluice. */}}
{{- define "sluice.name" -}}
{{- $release := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $release = .Values.fullnameOverride -}}
{{- else if not (contains .Chart.Name $release) -}}
{{- $release = printf "%s-%s" $release .Chart.Name -}}
{{- end -}}
{{- printf "%s-operator" ($release | trunc 40 | trimSuffix "-") -}}
{{- end -}}

{{/* What selects operator pods; it never changes between versions. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* What every data plane carries; the operator sets it. */}}
{{- define "sluice.dataplanes" -}}
app.kubernetes.io/managed-by: sluice-operator
{{- end -}}

{{/* The reference of an image: (list . .Values.image). */}}
{{- define "sluice.image" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $root.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where the API server asks the operator about what is applied. */}}
{{- define "sluice.webhook.enabled" -}}
{{- if and .Values.webhook.enabled (eq .Values.scope "Cluster") -}}true{{- end -}}
{{- end -}}

{{/* "true" where pods are given sidecars. */}}
{{- define "sluice.sidecars.enabled" -}}
{{- if and (include "sluice.webhook.enabled" .) .Values.sidecars.enabled -}}true{{- end -}}
{{- end -}}

{{/* The webhook's configuration belongs to no namespace, so its name has the release's. */}}
{{- define "sluice.webhook.configuration" -}}
{{ include "sluice.name" . }}.{{ .Release.Namespace }}
{{- end -}}
