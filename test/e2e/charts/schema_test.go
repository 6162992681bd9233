package charts

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"token-sidecar/internal/testbed"
)

// TestSchema: the chart's schema has the keys of values.yaml, with their types and descriptions. It checks names and
// types only; the values are checked by templates/_check.tpl, which has better messages.
func TestSchema(t *testing.T) {
	var values yaml.Node
	if err := yaml.Unmarshal([]byte(testbed.ReadFile(t, filepath.Join(sidecar, "values.yaml"))), &values); err != nil {
		t.Fatal(err)
	}
	schema := schemaOf(t, values.Content[0])
	schema["$schema"], schema["title"] = "http://json-schema.org/draft-07/schema#", "Values of token-sidecar"
	// Other charts have values there too.
	schema["properties"].(map[string]any)["global"].(map[string]any)["additionalProperties"] = true
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(sidecar, "values.schema.json"), out.String())
}

// schemaOf describes a value: a map takes the keys it has by default, and any key if it has none. null means the
// default.
func schemaOf(t *testing.T, value *yaml.Node) map[string]any {
	t.Helper()
	switch {
	case value.Kind == yaml.SequenceNode:
		return map[string]any{"type": []string{"array", "null"}}
	case value.Kind == yaml.MappingNode && (len(value.Content) == 0 || value.Style == yaml.FlowStyle):
		return map[string]any{"type": []string{"object", "null"}}
	case value.Kind == yaml.MappingNode:
		properties := map[string]any{}
		for i := 0; i < len(value.Content); i += 2 {
			property := schemaOf(t, value.Content[i+1])
			if _, text, described := strings.Cut(value.Content[i].HeadComment, "# -- "); described {
				property["description"] = strings.Join(strings.Fields(strings.ReplaceAll(text, "\n#", "\n")), " ")
			}
			properties[value.Content[i].Value] = property
		}
		return map[string]any{
			"type": []string{"object", "null"}, "additionalProperties": false,
			"properties": properties,
		}
	}
	kind, known := map[string]string{"!!str": "string", "!!int": "integer", "!!bool": "boolean"}[value.Tag]
	if !known {
		t.Fatalf("line %d of values.yaml is of type %s", value.Line, value.Tag)
	}
	return map[string]any{"type": []string{kind, "null"}}
}
