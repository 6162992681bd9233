package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// A description is docs/openapi.yaml, and which of its parts have been observed.
type description struct {
	doc   *openapi3.T
	names map[*openapi3.Schema]string // of the schemas that have one
	met   map[string]bool
}

// An exchange is a request and its answer.
type exchange struct {
	req  *http.Request
	sent string // the request's body
	res  *http.Response
	said []byte
}

func loadDescription(t *testing.T) *description {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("docs/openapi.yaml")
	if err == nil {
		err = doc.Validate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &description{doc: doc, names: map[*openapi3.Schema]string{}, met: map[string]bool{}}
	for name, schema := range doc.Components.Schemas {
		d.names[schema.Value] = name
	}
	return d
}

// check compares x with the description. It fails if the description lacks something.
func (d *description) check(ctx context.Context, x exchange) error {
	where, response, route := d.find(x)
	kind, _, _ := strings.Cut(x.res.Header.Get("Content-Type"), ";")
	if response == nil {
		return fmt.Errorf("%s: status %d is not described", where, x.res.StatusCode)
	}
	request := &openapi3filter.RequestValidationInput{
		Request: x.req, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if x.res.StatusCode < 300 {
		if err := d.checkRequest(ctx, where, request, x); err != nil {
			return err
		}
	}
	if err := openapi3filter.ValidateResponse(ctx, &openapi3filter.ResponseValidationInput{
		RequestValidationInput: request, Status: x.res.StatusCode, Header: x.res.Header,
		Body: io.NopCloser(bytes.NewReader(x.said)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, ExcludeResponseBody: kind != asJSON && response.Content[kind] != nil, // a text
		},
	}); err != nil {
		return fmt.Errorf("%s %d: %w", where, x.res.StatusCode, err)
	}
	where += d.statusOf(route, x.res.StatusCode)
	d.met[where] = true
	described := map[string]bool{}
	for name := range response.Headers {
		described[http.CanonicalHeaderKey(name)] = true
	}
	for name := range x.res.Header {
		if slices.Contains([]string{"Date", "Content-Length", "Content-Type"}, name) {
			continue // each answer has them
		}
		if !described[name] {
			return fmt.Errorf("%s: header %s is not described", where, name)
		}
		d.met[where+" header "+name] = true
	}
	return d.checkContent(where, response, x)
}

// find returns the description of x. Unknown calls are described by responses that belong to no operation.
func (d *description) find(x exchange) (where string, response *openapi3.Response, route *routers.Route) {
	item := d.doc.Paths.Value(x.req.URL.Path)
	if item != nil && item.GetOperation(x.req.Method) != nil {
		route = &routers.Route{
			Spec: d.doc, Path: x.req.URL.Path, PathItem: item, Method: x.req.Method,
			Operation: item.GetOperation(x.req.Method),
		}
		if found := route.Operation.Responses.Status(x.res.StatusCode); found != nil {
			response = found.Value
		}
		return x.req.Method + " " + x.req.URL.Path, response, route
	}
	for status, name := range orphans() {
		if status == x.res.StatusCode {
			found := d.doc.Components.Responses[name]
			op := &openapi3.Operation{Responses: openapi3.NewResponses(openapi3.WithStatus(status, found))}
			return name, found.Value, &routers.Route{Spec: d.doc, PathItem: &openapi3.PathItem{}, Operation: op}
		}
	}
	return x.req.Method + " " + x.req.URL.Path, nil, nil
}

// orphans are the responses to unknown calls.
func orphans() map[int]string {
	return map[int]string{http.StatusNotFound: "NotFound", http.StatusMethodNotAllowed: "MethodNotAllowed"}
}

// statusOf returns the name of a status in the description.
func (d *description) statusOf(route *routers.Route, status int) string {
	if route.Operation.Responses.Value(fmt.Sprint(status)) != nil {
		return fmt.Sprint(" ", status)
	}
	return fmt.Sprintf(" %dXX", status/100)
}

// checkRequest compares a valid request.
func (d *description) checkRequest(ctx context.Context, where string, in *openapi3filter.RequestValidationInput,
	x exchange,
) error {
	kind := x.req.Header.Get("Content-Type")
	in.Request.Body = io.NopCloser(strings.NewReader(x.sent))
	in.Options.ExcludeRequestBody = kind == asForm // the library cannot read forms whose fields have several types
	if err := openapi3filter.ValidateRequest(ctx, in); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	for _, p := range in.Route.Operation.Parameters {
		value := x.req.URL.Query().Get(p.Value.Name) + x.req.Header.Get(p.Value.Name)
		d.met[where+" parameter "+p.Value.Name+enumerated(p.Value.Schema, value)] = value != "" ||
			d.met[where+" parameter "+p.Value.Name]
	}
	for name := range x.req.URL.Query() {
		if in.Route.Operation.Parameters.GetByInAndName("query", name) == nil {
			return fmt.Errorf("%s: parameter %s is not described", where, name)
		}
	}
	for name := range x.req.Header {
		meaningless := slices.Contains([]string{"Accept", "Content-Type"}, name) || strings.HasPrefix(x.req.URL.Path, "/v1/")
		if !meaningless && in.Route.Operation.Parameters.GetByInAndName("header", name) == nil {
			return fmt.Errorf("%s: parameter %s is not described", where, name)
		}
	}
	if in.Route.Operation.RequestBody == nil {
		return nil
	}
	d.met[where+" body "+kind] = true
	schema := in.Route.Operation.RequestBody.Value.Content.Get(kind).Schema
	fields := map[string]any{}
	if json.Unmarshal([]byte(x.sent), &fields) != nil {
		form, _ := url.ParseQuery(x.sent)
		for name := range form {
			fields[name] = form.Get(name)
		}
	}
	for name, value := range fields {
		property := properties(schema)[name]
		if property == nil && value != nil {
			return fmt.Errorf("%s: field %s is not described", where, name)
		}
		if property != nil {
			text, _ := value.(string)
			d.met[where+" body field "+name+enumerated(property, text)] = true
		}
	}
	return nil
}

// checkContent compares the body of an answer.
func (d *description) checkContent(where string, response *openapi3.Response, x exchange) error {
	kind, _, _ := strings.Cut(x.res.Header.Get("Content-Type"), ";")
	if len(response.Content) == 0 {
		if len(x.said) > 0 {
			return fmt.Errorf("%s: there is a body: %s", where, x.said)
		}
		return nil
	}
	d.met[where+" "+kind] = true
	if kind != asJSON {
		return nil
	}
	schema := response.Content.Get(kind).Schema
	var body any
	if err := json.Unmarshal(x.said, &body); err != nil {
		return err
	}
	if fields, isObject := body.(map[string]any); isObject {
		if code, isText := fields["errorCode"].(string); isText {
			if !slices.Contains(codes(schema), code) {
				return fmt.Errorf("%s: errorCode %s is not described", where, code)
			}
			d.met[where+" errorCode "+code] = true
		}
	}
	return d.walk(where, schema, body)
}

// walk looks for fields that are not described.
func (d *description) walk(where string, schema *openapi3.SchemaRef, value any) error {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if err := d.walk(where+"[]", schema.Value.Items, item); err != nil {
				return err
			}
		}
	case map[string]any:
		known := properties(schema)
		for name, field := range value {
			if schema.Value.AdditionalProperties.Schema != nil {
				continue
			}
			if known[name] == nil {
				return fmt.Errorf("%s: field %s is not described", where, name)
			}
			d.met["field "+name+" of "+d.owner(schema, name, where)] = true
			if err := d.walk(where+" "+name, known[name], field); err != nil {
				return err
			}
		}
	}
	return nil
}

// owner names the schema with the property of that name, or where if the schema has no name.
func (d *description) owner(schema *openapi3.SchemaRef, name, where string) string {
	if schema.Value.Properties[name] != nil && d.names[schema.Value] != "" {
		return d.names[schema.Value]
	}
	for _, part := range slices.Concat(schema.Value.AllOf, schema.Value.AnyOf) {
		if properties(part)[name] == nil {
			continue
		}
		if d.names[part.Value] != "" && !slices.ContainsFunc(part.Value.AllOf, func(s *openapi3.SchemaRef) bool {
			return d.names[s.Value] != "" && properties(s)[name] != nil
		}) {
			return d.names[part.Value]
		}
		return d.owner(part, name, where)
	}
	return where
}

// properties returns those of an object, whichever part of the schema has them.
func properties(schema *openapi3.SchemaRef) openapi3.Schemas {
	all := maps.Clone(schema.Value.Properties)
	if all == nil {
		all = openapi3.Schemas{}
	}
	for _, part := range slices.Concat(schema.Value.AnyOf, schema.Value.AllOf) {
		maps.Copy(all, properties(part))
	}
	return all
}

// codes returns the errorCodes in a schema.
func codes(schema *openapi3.SchemaRef) (all []string) {
	property := properties(schema)["errorCode"]
	if property == nil {
		return nil
	}
	for _, code := range slices.Concat(property.Value.Enum, property.Value.Examples) {
		all = append(all, fmt.Sprint(code))
	}
	return all
}

// enumerated distinguishes the values of an enumeration.
func enumerated(schema *openapi3.SchemaRef, value string) string {
	if len(schema.Value.Enum) == 0 || value == "" {
		return ""
	}
	return "=" + value
}

// all are the parts of the description that have to be met.
func (d *description) all() (parts []string) {
	for path, item := range d.doc.Paths.Map() {
		for method, op := range item.Operations() {
			where := method + " " + path
			for _, p := range op.Parameters {
				parts = append(parts, values(where+" parameter "+p.Value.Name, p.Value.Schema)...)
			}
			if op.RequestBody != nil {
				for kind, media := range op.RequestBody.Value.Content {
					parts = append(parts, where+" body "+kind)
					for name, property := range properties(media.Schema) {
						parts = append(parts, values(where+" body field "+name, property)...)
					}
				}
			}
			for status, response := range op.Responses.Map() {
				parts = append(parts, d.responseParts(where+" "+status, response.Value)...)
			}
		}
	}
	for status, name := range orphans() {
		parts = append(parts, d.responseParts(fmt.Sprint(name, " ", status), d.doc.Components.Responses[name].Value)...)
	}
	slices.Sort(parts)
	return slices.Compact(parts)
}

func values(where string, schema *openapi3.SchemaRef) (parts []string) {
	for _, value := range schema.Value.Enum {
		if text, isText := value.(string); isText && text != "" {
			parts = append(parts, where+"="+text)
		}
	}
	if parts == nil {
		parts = []string{where}
	}
	return parts
}

func (d *description) responseParts(where string, response *openapi3.Response) []string {
	parts := []string{where}
	for name := range response.Headers {
		parts = append(parts, where+" header "+http.CanonicalHeaderKey(name))
	}
	for kind, media := range response.Content {
		parts = append(parts, where+" "+kind)
		for _, code := range codes(media.Schema) {
			parts = append(parts, where+" errorCode "+code)
		}
		parts = append(parts, d.fieldParts(where, media.Schema)...)
	}
	return parts
}

func (d *description) fieldParts(where string, schema *openapi3.SchemaRef) (parts []string) {
	for name, property := range properties(schema) {
		parts = append(parts, "field "+name+" of "+d.owner(schema, name, where))
		if property.Value.Items != nil {
			property = property.Value.Items
		}
		parts = append(parts, d.fieldParts(where+" "+name, property)...)
	}
	return parts
}
