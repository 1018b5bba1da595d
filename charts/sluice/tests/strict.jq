# Kubernetes' OpenAPI definitions as JSON schemas that refuse what they do not name.
def strict:
    if type != "object" then .
    elif .format == "int-or-string" or ."x-kubernetes-int-or-string" then {oneOf: [{type: "string"}, {type: "integer"}]}
    else
        (has("properties") and (has("additionalProperties") | not) and (."x-kubernetes-preserve-unknown-fields" | not)) as $closed
        | with_entries(
            select(.key | startswith("x-kubernetes") | not)
            | if .key == "$ref" then .value |= sub("^#/"; "_definitions.json#/")
              elif .key == "properties" then .value |= map_values(strict)
              elif .key == "items" or .key == "additionalProperties" or .key == "not" then .value |= strict
              elif .key == "allOf" or .key == "anyOf" or .key == "oneOf" then .value |= map(strict)
              else . end)
        | if $closed then .additionalProperties = false else . end
    end;
# Only the name under which kubeconform looks for a schema.
def file($kind; $group; $version):
    ($kind | ascii_downcase) + (if $group == "" then "" else "-" + ($group | split(".")[0]) end) + "-" + $version + ".json";
if .definitions then
    (.definitions | map_values(strict)
        # These hold any JSON.
        | with_entries(if .key | test("\\.(JSON|RawExtension|FieldsV1)$") then .value |= del(.type, .additionalProperties) else . end)) as $all
    | {name: "_definitions.json", schema: {definitions: $all}},
      (.definitions | to_entries[] | .key as $key | .value."x-kubernetes-group-version-kind" // [] | .[]
        | {name: file(.kind; .group; .version), schema: $all[$key]})
else
    # A CustomResourceDefinition: its resource has apiVersion, kind and metadata, whatever it says itself.
    .spec as $spec | $spec.versions[]
    | {name: file($spec.names.kind; $spec.group; .name),
       schema: (.schema.openAPIV3Schema
         | .properties += {apiVersion: {type: "string"}, kind: {type: "string"},
             metadata: {type: "object", "x-kubernetes-preserve-unknown-fields": true}}
         | strict)}
end
