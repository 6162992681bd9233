package proxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

const (
	asJSON = "application/json"
	asForm = "application/x-www-form-urlencoded"
)

func TestRefusedRequests(t *testing.T) {
	long := strings.Repeat("x", 257)
	for name, c := range map[string]struct {
		method, target, body, kind string
		status                     int
		code, names                string
	}{
		"no user":               {"GET", "/token", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"empty user":            {"GET", "/token?client_user_id=", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"repeated user":         {"GET", "/token?client_user_id=a&client_user_id=b", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"repeated, escaped":     {"GET", "/token?client_user_id=a&client%5Fuser_id=b", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"long user":             {"GET", "/token?client_user_id=" + long, "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"NUL":                   {"GET", "/token?client_user_id=a%00b", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"invalid UTF-8":         {"GET", "/token?client_user_id=a%ffb", "", "", 400, "INVALID_REQUEST", "client_user_id"},
		"bad escape":            {"GET", "/token?client_user_id=a%zz", "", "", 400, "INVALID_REQUEST", ""},
		"semicolon":             {"GET", "/token?client_user_id=a;b", "", "", 400, "INVALID_REQUEST", ""},
		"unknown field":         {"GET", "/token?client_user_id=a&scope=b", "", "", 400, "INVALID_REQUEST", "scope"},
		"other case":            {"GET", "/token?Client_User_ID=a", "", "", 400, "INVALID_REQUEST", "a name that was sent"},
		"secret on /token":      {"GET", "/token?client_user_id=a&client_secret=b", "", "", 400, "INVALID_REQUEST", "client_secret"},
		"unknown type":          {"GET", "/token?client_user_id=a&type=admin", "", "", 400, "INVALID_TOKEN_TYPE", "type"},
		"type in other case":    {"GET", "/token?client_user_id=a&type=Access", "", "", 400, "INVALID_TOKEN_TYPE", "type"},
		"empty type":            {"GET", "/token?client_user_id=a&type=", "", "", 400, "INVALID_REQUEST", "type"},
		"email without session": {"GET", "/token?client_user_id=a&client_user_email=b", "", "", 400, "INVALID_REQUEST", "client_user_email"},
		"empty scope":           {"GET", "/token?client_user_id=a&extra_scopes=", "", "", 400, "INVALID_REQUEST", "extra_scopes"},
		"query on POST":         {"POST", "/token?client_user_id=a", "{}", asJSON, 400, "INVALID_REQUEST", "body"},
		"broken JSON":           {"POST", "/token", `{"client_user_id":"a"`, asJSON, 400, "INVALID_REQUEST", ""},
		"no comma":              {"POST", "/token", `{"client_user_id":"a" "type":"access"}`, asJSON, 400, "INVALID_REQUEST", "JSON"},
		"comma at the end":      {"POST", "/token", `{"client_user_id":"a",}`, asJSON, 400, "INVALID_REQUEST", "JSON"},
		"no comma in a list":    {"POST", "/token", `{"client_user_id":"a","extra_scopes":["a" "b"]}`, asJSON, 400, "INVALID_REQUEST", "extra_scopes"},
		"control character":     {"POST", "/token", "{\"client_user_id\":\"a\nb\"}", asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"bad escape in JSON":    {"POST", "/token", `{"client_user_id":"\x"}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"no object":             {"POST", "/token", `["a"]`, asJSON, 400, "INVALID_REQUEST", ""},
		"empty body":            {"POST", "/token", ``, asJSON, 400, "INVALID_REQUEST", ""},
		"two objects":           {"POST", "/token", `{"client_user_id":"a"}{"client_user_id":"b"}`, asJSON, 400, "INVALID_REQUEST", ""},
		"repeated in JSON":      {"POST", "/token", `{"client_user_id":"a","client_user_id":"b"}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"escaped repetition":    {"POST", "/token", `{"client_user_id":"a","client\u005fuser_id":"b"}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"user as number":        {"POST", "/token", `{"client_user_id":1}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"user as null":          {"POST", "/token", `{"client_user_id":null}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"user as object":        {"POST", "/token", `{"client_user_id":{}}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"lone surrogate":        {"POST", "/token", `{"client_user_id":"\ud800"}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"raw bytes":             {"POST", "/token", "{\"client_user_id\":\"\xff\"}", asJSON, 400, "INVALID_REQUEST", "UTF-8"},
		"NUL in JSON":           {"POST", "/token", `{"client_user_id":"\u0000"}`, asJSON, 400, "INVALID_REQUEST", "client_user_id"},
		"scopes as text":        {"POST", "/token", `{"client_user_id":"a","extra_scopes":"b"}`, asJSON, 400, "INVALID_REQUEST", "extra_scopes"},
		"scopes of numbers":     {"POST", "/token", `{"client_user_id":"a","extra_scopes":[1]}`, asJSON, 400, "INVALID_REQUEST", "extra_scopes"},
		"scopes twice":          {"POST", "/token", `{"client_user_id":"a","extra_scopes":[],"extra_scopes":[]}`, asJSON, 400, "INVALID_REQUEST", "extra_scopes"},
		"uncovered on drop-in":  {"POST", "/v1/connect/token", `{"client_user_id":"a","type":"access","grant":"x"}`, asJSON, 400, "INVALID_REQUEST", "grant"},
		"foreign client_id":     {"POST", "/v1/connect/token", `{"client_user_id":"a","client_id":"other"}`, asJSON, 401, "INVALID_CLIENT_ID", "client_id"},
		"no content type":       {"POST", "/token", `{"client_user_id":"a"}`, "", 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		"text":                  {"POST", "/token", `{"client_user_id":"a"}`, "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		"latin1":                {"POST", "/token", `{"client_user_id":"a"}`, asJSON + "; charset=latin1", 415, "UNSUPPORTED_MEDIA_TYPE", "UTF-8"},
		"large":                 {"POST", "/token", `{"client_user_id":"` + strings.Repeat("x", 16<<10) + `"}`, asJSON, 413, "BODY_TOO_LARGE", "16 KiB"},
		"no such call":          {"GET", "/tokens", "", "", 404, "NOT_FOUND", "GET /token"},
		"slash":                 {"GET", "/token/?client_user_id=a", "", "", 404, "NOT_FOUND", ""},
		"double slash":          {"GET", "//token?client_user_id=a", "", "", 404, "NOT_FOUND", ""},
		"PUT":                   {"PUT", "/token", "", "", 405, "METHOD_NOT_ALLOWED", "Allow"},
		"HEAD":                  {"HEAD", "/token?client_user_id=a", "", "", 405, "METHOD_NOT_ALLOWED", ""},
		"GET on drop-in":        {"GET", "/v1/admin/token", "", "", 405, "METHOD_NOT_ALLOWED", ""},
		"DELETE nobody":         {"DELETE", "/token", "", "", 400, "INVALID_REQUEST", "client_user_id"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			r := request(c.method, c.target, c.body)
			if c.kind != "" {
				r.Header.Set("Content-Type", c.kind)
			}
			got := w.do(r)
			if got.status != c.status || got.code() != c.code || !strings.Contains(got.text("message"), c.names) {
				t.Errorf("%d %s; want %d %s naming %q", got.status, got.raw, c.status, c.code, c.names)
			}
			if c.status == 405 && got.header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
			if got.header.Get("Cache-Control") != "no-store" {
				t.Error("an error may be stored")
			}
			if w.calls() != 0 {
				t.Error("it reached the auth service")
			}
		})
	}
}

func TestAcceptedRequests(t *testing.T) {
	user := strings.Repeat("x", 256)
	for name, c := range map[string]struct{ target, body, kind, user string }{
		"query":           {"/token?client_user_id=alice&type=access", "", "", "alice"},
		"escaped":         {"/token?client%5fuser_id=a+b%2Bc%26%C3%BC", "", "", "a b+c&ü"},
		"empty pairs":     {"/token?&client_user_id=alice&&", "", "", "alice"},
		"longest user":    {"/token?client_user_id=" + user, "", "", user},
		"JSON":            {"/token", `{"client_user_id":"alice"}`, asJSON, "alice"},
		"JSON, charset":   {"/token", ` {"client_user_id":"ü"} `, asJSON + `; charset="UTF-8"`, "ü"},
		"JSON, escapes":   {"/token", `{"client_user_id":"\u00fc\ud83d\ude00"}`, asJSON, "ü😀"},
		"form":            {"/token", "client_user_id=alice&type=access", asForm, "alice"},
		"drop-in":         {"/v1/connect/token", `{"client_user_id":"alice","type":"access","client_id":"sandbox-client","client_secret":"x","extra_scopes":["a"]}`, asJSON, "alice"},
		"drop-in, form":   {"/v1/connect/token", "client_user_id=alice&type=access&client_id=sandbox-client&client_secret=x", asForm, "alice"},
		"case of a media": {"/token", `{"client_user_id":"alice"}`, "Application/JSON", "alice"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			method := "GET"
			if c.body != "" {
				method = "POST"
			}
			r := request(method, c.target, c.body)
			if c.kind != "" {
				r.Header.Set("Content-Type", c.kind)
			}
			if got := w.do(r); got.status != 200 || w.auth.CallsOf(c.user) != 1 {
				t.Errorf("%d %s; calls for the user: %d", got.status, got.raw, w.auth.CallsOf(c.user))
			}
		})
	}
}

// TestKeysTellRequestsApart: two requests have the same key only if they are the same request.
func TestKeysTellRequestsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"a", "b", "ab"})
		draw := func() (*vend.Broker, upstream.Request, string) {
			url, client := text.Draw(t, "url"), text.Draw(t, "client")
			f := fields{
				userID:    text.Draw(t, "user"),
				tokenType: rapid.SampledFrom([]string{"access", "client", "id", "id_token"}).Draw(t, "type"),
				scopes:    rapid.SliceOfN(text, 0, 3).Draw(t, "scopes"),
			}
			path := rapid.SampledFrom([]string{upstream.ConnectPath, upstream.AdminPath}).Draw(t, "path")
			req, err := f.token(path)
			if err != nil {
				t.Fatal(err)
			}
			same := []string{url, client, req.Path, req.Type, req.UserID.Reveal()}
			return vend.NewBroker(vend.Options{AuthURL: url, ClientID: client}), req,
				strings.Join(append(same, req.Scopes...), "\x00")
		}
		b1, r1, same1 := draw()
		b2, r2, same2 := draw()
		if (b1.Key(r1) == b2.Key(r2)) != (same1 == same2) {
			t.Fatalf("%q and %q", same1, same2)
		}
	})
}

// FuzzQuery: parsing never panics, and accepts only what is documented.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"client_user_id=a", "client_user_id=a&type=id&extra_scopes=b", "%", "a=b;c",
		"client_user_id=%ff", "&&=&",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var f fields
		checkParsed(t, &f, f.parseQuery(raw))
	})
}

// FuzzJSON does the same for JSON, which encoding/json must read in the same way.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"client_user_id":"a"}`, `{"extra_scopes":["a",1]}`, `{`, `{"a":{}}`,
		`{"type":"\ud800"}`, `{"client_user_id":"a"} x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		f := fields{dropIn: true}
		err := f.parseJSON(string(raw))
		if err == nil {
			var same struct {
				User   string   `json:"client_user_id"`
				Type   string   `json:"type"`
				Scopes []string `json:"extra_scopes"`
			}
			if err := json.Unmarshal(raw, &same); err != nil || same.User != f.userID || same.Type != f.tokenType ||
				!slices.Equal(same.Scopes, f.scopes) {
				t.Fatalf("%q was read as %+v, encoding/json says %+v, %v", raw, f, same, err)
			}
		}
		checkParsed(t, &f, err)
	})
}

func checkParsed(t *testing.T, f *fields, err error) {
	if err == nil {
		_, err = f.token(upstream.ConnectPath)
	}
	var told *apiError
	if err != nil {
		if !errors.As(err, &told) || told.status < 400 || told.status >= 500 || told.message == "" {
			t.Fatalf("an error without an answer: %v", err)
		}
		return
	}
	for _, value := range append([]string{f.userID, f.email, f.tokenType, f.clientID}, f.scopes...) {
		if problem := checkText(value); problem != "" {
			t.Fatalf("%q %s", value, problem)
		}
	}
	if f.userID == "" && f.tokenType != typeClient || !slices.IsSorted(f.scopes) {
		t.Fatalf("accepted %+v", f)
	}
}

func TestGuards(t *testing.T) {
	for name, c := range map[string]struct {
		host   string
		header []string
		status int
	}{
		"localhost":            {"localhost", nil, 200},
		"localhost:port":       {"localhost:8080", nil, 200},
		"in capitals":          {"LocalHost:1", nil, 200},
		"IPv4":                 {"127.0.0.1:8080", nil, 200},
		"IPv6":                 {"[::1]:8080", nil, 200},
		"IPv6 without port":    {"[::1]", nil, 200},
		"another host":         {"evil.example", nil, 421},
		"trailing dot":         {"localhost.", nil, 421},
		"trailing dot, port":   {"localhost.:8080", nil, 421},
		"prefix":               {"localhost.evil.example", nil, 421},
		"other loopback":       {"127.0.0.2", nil, 421},
		"decimal":              {"2130706433", nil, 421},
		"bare IPv6":            {"::1", nil, 421},
		"long IPv6":            {"[0:0:0:0:0:0:0:1]", nil, 421},
		"mapped":               {"[::ffff:127.0.0.1]", nil, 421},
		"empty":                {"", nil, 421},
		"empty port":           {"localhost:", nil, 421},
		"named port":           {"localhost:http", nil, 421},
		"user info":            {"evil@localhost", nil, 421},
		"forwarded for":        {"localhost", []string{"X-Forwarded-For", "1.2.3.4"}, 403},
		"forwarded":            {"localhost", []string{"Forwarded", "for=1.2.3.4"}, 403},
		"real IP":              {"localhost", []string{"X-Real-IP", "1.2.3.4"}, 403},
		"empty forwarded":      {"localhost", []string{"X-Forwarded-For", ""}, 403},
		"origin":               {"localhost", []string{"Origin", "http://evil.example"}, 403},
		"null origin":          {"localhost", []string{"Origin", "null"}, 403},
		"cross-site":           {"localhost", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same-site":            {"localhost", []string{"Sec-Fetch-Site", "same-site"}, 403},
		"two fetch sites":      {"localhost", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Site", "cross-site"}, 403},
		"same-origin":          {"localhost", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		"typed into a browser": {"localhost", []string{"Sec-Fetch-Site", "none"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			r := request("GET", "/token?client_user_id=alice", "", c.header...)
			r.Host = c.host
			got := w.do(r)
			codes := map[int]string{200: "", 421: "MISDIRECTED_HOST", 403: "CALLER_NOT_ALLOWED"}
			if got.status != c.status || got.code() != codes[c.status] {
				t.Errorf("%d %s", got.status, got.raw)
			}
			if c.status != 200 && w.calls() != 0 {
				t.Error("it reached the auth service")
			}
		})
	}
}

func TestCallerToken(t *testing.T) {
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"right":       {[]string{"Authorization", "Bearer right"}, 200},
		"other case":  {[]string{"Authorization", "bearer right"}, 200},
		"wrong":       {[]string{"Authorization", "Bearer wrong"}, 401},
		"none":        {nil, 401},
		"empty":       {[]string{"Authorization", "Bearer "}, 401},
		"basic":       {[]string{"Authorization", "Basic right"}, 401},
		"bare":        {[]string{"Authorization", "right"}, 401},
		"sent twice":  {[]string{"Authorization", "Bearer wrong", "Authorization", "Bearer right"}, 401},
		"with spaces": {[]string{"Authorization", "Bearer  right"}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(s *settings) { s.proxy.CallerToken = fixed("right") })
			got := w.do(request("GET", "/token?client_user_id=alice", "", c.header...))
			if got.status != c.status || (c.status == 401) != (got.code() == "CALLER_TOKEN_REQUIRED" &&
				got.header.Get("WWW-Authenticate") != "") {
				t.Errorf("%d %s", got.status, got.raw)
			}
		})
	}
}

// TestHashHeader: for each type, also where there is nothing to forget.
func TestHashHeader(t *testing.T) {
	w := newWorld(t, nil)
	forget := func(kind, hash string) reply {
		return w.do(request("DELETE", "/token?client_user_id=a&type="+kind, "", "X-Rejected-Token-Hash", hash))
	}
	for _, kind := range []string{"access", "client", "id", "id_token", "session"} {
		for _, value := range []string{"", "zz", strings.Repeat("z", 64), strings.Repeat("a", 63), strings.Repeat("a", 66)} {
			if got := forget(kind, value); got.status != http.StatusBadRequest {
				t.Errorf("%s, %q: %d", kind, value, got.status)
			}
		}
		if got := forget(kind, strings.Repeat("aB", 32)); got.status != http.StatusNoContent {
			t.Errorf("%s, a good hash: %d %s", kind, got.status, got.raw)
		}
		got := w.do(request("DELETE", "/token?type="+kind, ""))
		if missing := kind != "client"; missing != (got.status == http.StatusBadRequest) {
			t.Errorf("%s without a user: %d %s", kind, got.status, got.raw)
		}
	}
}
