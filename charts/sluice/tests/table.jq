# The table of values in README.md from values.schema.json.
.definitions as $definitions
| def rows($path):
    to_entries[] | .value as $value | ($path + .key) as $name
    | $value
    | if has("default") or (has("properties") | not) then
        if ."$ref" == "#/definitions/image" then
            $value.default as $default
            | $definitions.image.properties | to_entries[]
            | "| `\($name).\(.key)` | `\($default[.key] | tojson)` | \(if .key == "repository" then $value.description + " " else "" end)\(.value.description) |"
        else select(has("default")) | "| `\($name)` | `\(.default | tojson)` | \(.description) |" end
      else .properties | rows($name + ".") end;
"| value | default | meaning |", "|---|---|---|", (.properties | rows(""))
