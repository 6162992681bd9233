package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"html"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"token-sidecar/internal/secret"
)

const (
	// maxLayers is how many layers of escapes are decoded, such as JSON in a JSON string.
	maxLayers = 3
	// minEncoded is the minimum length, in bytes, of a secret that is searched for in base64. Shorter ones would match
	// parts of tokens by chance.
	minEncoded = 6
)

// echoes reports whether body contains the client secret: verbatim, in JSON escapes (RFC 8259, section 7),
// percent-encoded (RFC 3986, section 2.1, and as in forms), in HTML character references, in base64, or in up to three
// layers of those.
func echoes(body []byte, clientSecret secret.Text) bool {
	wanted := []byte(clientSecret.Reveal())
	if len(wanted) == 0 || len(body) == 0 {
		return false
	}
	return containsAny(body, append([][]byte{wanted}, base64Forms(wanted)...), maxLayers)
}

// containsAny searches for the patterns in text, and in text with up to that many layers of escapes decoded.
func containsAny(text []byte, patterns [][]byte, layers int) bool {
	for _, pattern := range patterns {
		if bytes.Contains(text, pattern) {
			return true
		}
	}
	if layers == 0 {
		return false
	}
	for _, unescape := range []func([]byte) []byte{unescapeJSON, unescapePercent, unescapeForm, unescapeHTML} {
		if plain := unescape(text); !bytes.Equal(plain, text) && containsAny(plain, patterns, layers-1) {
			return true
		}
	}
	return false
}

// base64Forms returns strings of which base64 (RFC 4648, sections 4 and 5) contains at least one if the encoded data
// contains the secret. The secret may begin at each of three positions in a group, and its first and last characters
// depend on their neighbours.
func base64Forms(wanted []byte) (forms [][]byte) {
	if len(wanted) < minEncoded {
		return nil
	}
	for shift := range 3 {
		padded := append(make([]byte, shift), wanted...)
		whole := len(padded) / 3 * 4
		first := (shift*8 + 5) / 6
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			forms = append(forms, []byte(encoding.EncodeToString(padded))[first:whole])
		}
	}
	return forms
}

// unescapeJSON decodes JSON string escapes anywhere in text.
func unescapeJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, "\b\f\n\r\t"[bytes.IndexByte([]byte("bfnrt"), c)])
		case 'u':
			r, ok := codeUnit(text[i+1:])
			if !ok {
				out = append(out, '\\', 'u')
				continue
			}
			i += 4
			if utf16.IsSurrogate(r) && bytes.HasPrefix(text[i+1:], []byte(`\u`)) {
				if low, ok := codeUnit(text[i+3:]); ok {
					r = utf16.DecodeRune(r, low)
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default: // a quote, a backslash, a slash, or no valid escape
			out = append(out, c)
		}
	}
	return out
}

// codeUnit reads the four digits of a \u escape.
func codeUnit(text []byte) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(text[:4]), 16, 16)
	return rune(unit), err == nil
}

func unescapePercent(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		var b [1]byte
		if text[i] == '%' && i+2 < len(text) {
			if _, err := hex.Decode(b[:], text[i+1:i+3]); err == nil {
				out = append(out, b[0])
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

// unescapeForm is unescapePercent, with plus signs decoded to spaces.
func unescapeForm(text []byte) []byte {
	if !bytes.Contains(text, []byte("+")) {
		return text // the result would be the same
	}
	return unescapePercent(bytes.ReplaceAll(text, []byte("+"), []byte(" ")))
}

func unescapeHTML(text []byte) []byte { return []byte(html.UnescapeString(string(text))) }
