# values.yaml from values.schema.json: every value with its description and its default.
def scalar: if type == "string" and test("^[A-Za-z][A-Za-z0-9/._-]*$") and (test("^(true|false|yes|no|on|off|null|y|n)$"; "i") | not)
    then . else tojson end;
# Short collections stand in one line, as a person would write them.
def inline: if type == "object" then "{" + (to_entries | map("\(.key): \(.value | inline)") | join(", ")) + "}"
    elif type == "array" then "[" + (map(inline) | join(", ")) + "]" else scalar end;
def lines($indent):
    to_entries[] | .key as $key | .value
    | select(has("default") or has("properties"))
    | "\($indent)# \(.description)",
      if has("default") | not then "\($indent)\($key):", (.properties | lines($indent + "  "))
      elif ."$ref" == "#/definitions/image" then
          "\($indent)\($key):", (.default | to_entries[] | "\($indent)  \(.key): \(.value | scalar)")
      else "\($indent)\($key): \(.default | inline)" end;
"# Made from values.schema.json by scripts/chart --write.", (.properties | lines(""))
