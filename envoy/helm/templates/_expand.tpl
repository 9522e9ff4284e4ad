{{/*
The files of envoy/istio and envoy/gateway are about a service orders in a namespace shop. Here they get one's own names, as weir generate
does it: what names the service is repeated for each of one's own, be it a document, a patch, or a line of the policy.
*/}}

{{/* weir.marks: words of the examples become marks, so that no name that is put in is taken for such a word. */}}
{{- define "weir.marks" -}}
{{- $text := . -}}
{{- range $word, $mark := dict
    `1 orders\.shop\.svc\.cluster\.local:8080` "@host@:@port@"
    `2 orders\.shop\.svc\.cluster\.local` "@host@"
    `3 app: storefront` "@label@"
    `3 orders` "@name@"
    `3 shop` "@namespace@"
    `3 eg` "@gateway@"
    `3 tcp-80` "@listener@"
    `3 http-80` "@routes@"
    `3 weir-proxy-status` "@status@"
-}}
{{- $text = regexReplaceAll (printf `\b%s\b` (substr 2 -1 $word)) $text $mark -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* weir.put: [text, names]: the marks become names. */}}
{{- define "weir.put" -}}
{{- $text := index . 0 -}}
{{- range $mark, $name := index . 1 -}}
{{- $text = replace (printf "@%s@" $mark) $name $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* weir.repeat: [text, each, around]: as a list in JSON, the text for each service, if it is about one; else once. */}}
{{- define "weir.repeat" -}}
{{- $text := index . 0 -}}
{{- $made := list -}}
{{- if regexMatch `@(name|host)@` $text -}}
{{- range index . 1 -}}{{- $made = append $made (include "weir.put" (list $text .)) -}}{{- end -}}
{{- else -}}
{{- $made = list (include "weir.put" (list $text (index . 2))) -}}
{{- end -}}
{{- $made | uniq | toJson -}}
{{- end -}}

{{/* weir.items: [items, each, around, listeners]: the items of a list, as JSON. */}}
{{- define "weir.items" -}}
{{- $each := index . 1 -}}{{- $around := index . 2 -}}{{- $listeners := index . 3 -}}
{{- $items := list -}}
{{- range index . 0 -}}
{{- $text := include "weir.marks" (toYaml .) -}}
{{- $texts := list -}}
{{- if contains `"role": "decide"` $text -}}
{{- $lines := list -}}
{{- range splitList "\n" $text -}}
{{- $lines = concat $lines (include "weir.repeat" (list . $each $around) | fromJsonArray) -}}
{{- end -}}
{{- $texts = list (join "\n" $lines) -}}
{{- else -}}
{{- $texts = include "weir.repeat" (list $text $each $around) | fromJsonArray -}}
{{- end -}}
{{- range $text := $texts -}}
{{- if regexMatch `@(listener|routes)@` $text -}}
{{- range $listeners -}}
{{- $item := include "weir.put" (list $text .) | fromYaml -}}
{{- if not (has $item $items) -}}{{- $items = append $items $item -}}{{- end -}}
{{- end -}}
{{- else -}}
{{- $items = append $items (fromYaml $text) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $items -}}
{{- end -}}

{{/* weir.policy: [policy, context]: what the values lay over the policy of role decide. */}}
{{- define "weir.policy" -}}
{{- $policy := index . 0 -}}{{- $values := (index . 1).Values -}}
{{- if eq $values.mode "shadow" -}}{{- $_ := set $policy "mode" "shadow" -}}{{- end -}}
{{- toJson (mustMergeOverwrite $policy (deepCopy $values.policy)) -}}
{{- end -}}

{{/* weir.documents: [file, each, around, listeners, context]: the documents of a shipped file, with one's own names. */}}
{{- define "weir.documents" -}}
{{- $each := index . 1 -}}{{- $around := index . 2 -}}{{- $listeners := index . 3 -}}{{- $context := index . 4 -}}
{{- range splitList "\n---\n" ($context.Files.Get (printf "files/%s" (index . 0))) -}}
{{- $document := fromYaml . -}}
{{- $holder := $document.spec -}}
{{- $key := "" -}}
{{- if hasKey $document.spec "pluginConfig" -}}{{- $holder = $document.spec.pluginConfig -}}{{- $key = "clusters" -}}
{{- else if hasKey $document.spec "configPatches" -}}{{- $key = "configPatches" -}}
{{- else if hasKey $document.spec "jsonPatches" -}}{{- $key = "jsonPatches" -}}
{{- end -}}
{{- $items := list -}}
{{- if $key -}}{{- $items = index $holder $key -}}{{- $_ := unset $holder $key -}}{{- end -}}
{{- $items = include "weir.items" (list $items $each $around $listeners) | fromJsonArray -}}
{{- range $items -}}
{{- $value := default dict (default (default dict .patch).value (default dict .operation).value) -}}
{{- if and (kindIs "map" $value) (eq (default "" $value.name) "weir.decide") -}}
{{- $configuration := $value.typed_config.config.configuration -}}
{{- $_ := set $configuration "value" (include "weir.policy" (list (fromJson $configuration.value) $context) | fromJson | toPrettyJson) -}}
{{- end -}}
{{- end -}}
{{- range include "weir.repeat" (list (include "weir.marks" (toYaml $document)) $each $around) | fromJsonArray -}}
{{- $made := fromYaml . -}}
{{- if $around.suffix -}}{{- $_ := set $made.metadata "name" (printf "%s-%s" $made.metadata.name $around.suffix) -}}{{- end -}}
{{- if eq $key "clusters" -}}
{{- $_ := set $made.spec.pluginConfig "clusters" $items -}}
{{- $_ := set $made.spec "pluginConfig" (include "weir.policy" (list $made.spec.pluginConfig $context) | fromJson) -}}
{{- $_ := set $made.spec "url" $context.Values.module.image -}}
{{- else if $key -}}
{{- $_ := set $made.spec $key $items -}}
{{- end }}
---
{{ toYaml $made }}
{{ end -}}
{{- end -}}
{{- end -}}
