package proxy

import (
	"encoding/json"
	"testing"
)

// TestComplete: whatever a refusal leaves out or empty is filled in, and the rest stays.
func TestComplete(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                              `{"errorCode":"C","message":"m"}`,
		`{"errorCode":null,"message":""}`: `{"errorCode":"C","message":"m"}`,
		`{"errorCode":"","a":[1, 2]}`:     `{"a":[1, 2],"errorCode":"C","message":"m"}`,
		`{"errorCode":"A","message":"b"}`: `{"errorCode":"A","message":"b"}`,
		`{"errorCode":42,"message":{}}`:   `{"errorCode":42,"message":{}}`,
		`null`:                            ``,
		`[]`:                              ``,
		`<html>`:                          ``,
		``:                                ``,
	} {
		got := complete([]byte(body), "C", "m")
		if string(got) != compact(want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func compact(text string) string {
	var value any
	if json.Unmarshal([]byte(text), &value) != nil {
		return ""
	}
	out, _ := json.Marshal(value)
	return string(out)
}
