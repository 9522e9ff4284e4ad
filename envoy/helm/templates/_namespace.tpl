{{/* weir.namespace: of the clients, or of the Gateway. */}}
{{- define "weir.namespace" -}}
{{- $own := eq .Values.platform "istio" | ternary .Values.clients.namespace .Values.gateway.namespace -}}
{{- $own | default (dig "namespace" .Release.Namespace (default dict (first .Values.services))) -}}
{{- end -}}
