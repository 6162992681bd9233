package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestObjects(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // name=value of each member
	}{
		"empty":            {" { } ", ""},
		"every kind":       {`{"a":"x","b":1,"c":true,"d":false,"e":null,"f":{},"g":[]}`, `a="x" b=1 c=true d=false e=null f={} g=[]`},
		"white space":      {" {\r\n\t\"a\" : 1 ,\"b\": [ 1 , 2 ] } \n", "a=1 b=[ 1 , 2 ]"},
		"repeated":         {`{"a":1,"A":2,"a":3}`, "a=1 A=2 a=3"},
		"escaped name":     {`{"\u0061\n":1}`, "a\n=1"},
		"nested names":     {`{"a":{"a":{"b":1}},"b":[{"a":1}]}`, `a={"a":{"b":1}} b=[{"a":1}]`},
		"quotes and signs": {`{"a":"\"},{:","b":-1.5e+3}`, `a="\"},{:" b=-1.5e+3`},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			s := New(c.text)
			for s.Next() {
				v := s.Value()
				if !strings.HasPrefix(c.text[v.Start:], v.Raw) {
					t.Errorf("%s is not at %d", v.Raw, v.Start)
				}
				got = append(got, s.Name()+"="+v.Raw)
			}
			if joined := strings.Join(got, " "); joined != c.want || s.Err() != nil {
				t.Errorf("%s, %v", joined, s.Err())
			}
			if s.Next() {
				t.Error("there is more behind the end")
			}
		})
	}
}

func TestBroken(t *testing.T) {
	for text, name := range map[string]string{ // the member that must be named in the error
		``: "", `null`: "", `[]`: "", `"a"`: "", `{`: "", `{"a"`: "", `{"a":`: "a", `{"a":1`: "", `{"a":1,}`: "", `{"a":1 "b":2}`: "", `{a:1}`: "",
		`{'a':1}`: "", `{"a":1}}`: "", `{"a":1} x`: "", `{"a":1}{}`: "", `{"a" 1}`: "", `{"a":1,,"b":2}`: "", `{"\x":1}`: "", `{"a":1,"b":tru}`: "b",
		`{"a":"x}`: "a", `{"a":"\x"}`: "a", `{"a":"\u12g4"}`: "a", `{"a":"\u12`: "a", `{"a":"\`: "a", "{\"a\":\"\n\"}": "a",
		`{"a":01}`: "", `{"a":1.}`: "a",
		`{"a":.1}`: "a", `{"a":+1}`: "a", `{"a":-}`: "a", `{"a":1e}`: "a", `{"a":1e+}`: "a", `{"a":NaN}`: "a",
		`{"a":[1,]}`: "a", `{"a":[1 2]}`: "a",
		`{"a":[}`: "a", `{"a":{"b"}}`: "a", `{"a":{"b":1,}}`: "a", `{"a":{1:2}}`: "a", `{"a":nul`: "a", "\ufeff{}": "",
		`{"a":1,"b":/**/2}`: "b",
	} {
		s := New(text)
		for s.Next() {
		}
		if !errors.Is(s.Err(), ErrSyntax) || s.Name() != name {
			t.Errorf("%s: %v of %q, want it of %q", text, s.Err(), s.Name(), name)
		}
	}
	for text, want := range map[string]error{
		"{\"a\":\"\xff\"}": ErrUTF8, "{\"a\":1}\xc3": ErrUTF8,
		`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`:               ErrDepth,
		strings.Repeat(`{"a":`, 100_000):                                                            ErrDepth,
		`{"a":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `}`:           nil,
		`{"a":` + strings.Repeat(`{"a":`, maxDepth-1) + "1" + strings.Repeat("}", maxDepth-1) + `}`: nil,
	} {
		s := New(text)
		for s.Next() {
		}
		if !errors.Is(s.Err(), want) {
			t.Errorf("%.20s…: %v, want %v", text, s.Err(), want)
		}
	}
}

func TestValues(t *testing.T) {
	for raw, c := range map[string]struct {
		text   string
		isText bool
		texts  []string
		isList bool
		digits string
		isNull bool
	}{
		`"a"`:                  {text: "a", isText: true},
		`""`:                   {isText: true},
		`"\u00fc\ud83d\ude00"`: {text: "ü😀", isText: true},
		`"\ud800"`:             {text: "\ufffd", isText: true},
		`[]`:                   {isList: true},
		`[ "a" , "\n" ]`:       {isList: true, texts: []string{"a", "\n"}},
		`["a",1]`:              {}, `[["a"]]`: {}, `[null]`: {}, `{"a":"b"}`: {}, `true`: {},
		`null`: {isNull: true},
		`0`:    {digits: "0"}, `42`: {digits: "42"}, `-7`: {digits: "-7"}, `12345678901234567890123`: {digits: "12345678901234567890123"},
		`-0`: {}, `1.0`: {}, `1e3`: {}, `-1E-3`: {},
	} {
		s := New(`{"v":` + raw + `}`)
		if !s.Next() {
			t.Fatal(raw, s.Err())
		}
		v := s.Value()
		text, isText := v.Text()
		texts, isList := v.Texts()
		digits, whole := v.Digits()
		if text != c.text || isText != c.isText || isList != c.isList || isList && !slices.Equal(texts, c.texts) ||
			digits != c.digits || whole != (c.digits != "") ||
			v.IsNull() != c.isNull {
			t.Errorf("%s: text %q %v, list %q %v, digits %q", raw, text, isText, texts, isList, digits)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	text := `{"client_user_id":"user","type":"access","other":{"a":[1,2,{"b":null}]}}`
	if n := testing.AllocsPerRun(100, func() {
		s := New(text)
		for s.Next() {
			_, _ = s.Value().Text()
			_, _ = s.Value().Digits()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzScanner: encoding/json agrees on what is an object and what it contains, strictness aside.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		`{"client_user_id":"a","type":"access","extra_scopes":["a","b"]}`, ` { "a" : -1.5e+3 , "b":{"c":[true,false,null]}} `,
		`{"a":1,"a":2}`,
		`{"\u0061":"\ud83d\ude00\n"}`, `{"a":"\ud800"}`, `{`, `{"a":1} x`, `[1]`, `{"a":01}`, `{"":[[[{}]]]}`,
		"{\"a\":\"\xff\"}", `{"a":[1,]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		type member struct{ name, raw string }
		var got []member
		s := New(text)
		for s.Next() {
			v := s.Value()
			if !strings.HasPrefix(text[v.Start:], v.Raw) {
				t.Fatalf("%q is not at %d", v.Raw, v.Start)
			}
			got = append(got, member{s.Name(), v.Raw})
		}
		if errors.Is(s.Err(), ErrDepth) {
			return
		}
		isObject := json.Valid([]byte(text)) && strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") &&
			utf8.ValidString(text)
		if (s.Err() == nil) != isObject {
			t.Fatalf("%v", s.Err())
		}
		if !isObject {
			return
		}
		dec := json.NewDecoder(strings.NewReader(text))
		_, _ = dec.Token()
		for i := 0; dec.More(); i++ {
			name, _ := dec.Token()
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				t.Fatal(err)
			}
			if i == len(got) || got[i].name != name || got[i].raw != string(bytes.TrimSpace(raw)) {
				t.Fatalf("member %d is %q: %s; got %q", i, name, raw, got)
			}
			checkValue(t, Value{Raw: got[i].raw}, raw)
		}
	})
}

func checkValue(t *testing.T, v Value, raw json.RawMessage) {
	var text *string
	isText := json.Unmarshal(raw, &text) == nil && text != nil
	if got, ok := v.Text(); ok != isText || ok && got != *text {
		t.Fatalf("%s as a text: %q, %v", raw, got, ok)
	}
	var texts []*string
	isList := json.Unmarshal(raw, &texts) == nil && texts != nil && !slices.Contains(texts, nil)
	got, ok := v.Texts()
	if ok != isList || len(got) != len(texts) && ok {
		t.Fatalf("%s as a list: %q, %v", raw, got, ok)
	}
	for i := range got {
		if got[i] != *texts[i] {
			t.Fatalf("%s as a list: %q", raw, got)
		}
	}
}
