package notify

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/problem"
)

// object is a JSON object whose values are parts of its text. A map of encoding/json's costs four times as
// much, a fifth of all that a notification does.
type object []member

type member struct {
	key   string
	value json.RawMessage
}

// get finds a member. Of those of one name the last counts, as in encoding/json.
func (o object) get(key string) json.RawMessage {
	for _, m := range slices.Backward(o) {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// readObject reads exactly one JSON object in UTF-8.
func readObject(body []byte) (object, *problem.Problem) {
	if !utf8.Valid(body) {
		return nil, problem.New(http.StatusBadRequest, "bad_utf8", "the body must be JSON in UTF-8")
	}
	text := bytes.TrimLeft(body, " \t\r\n")
	isObject := len(text) > 0 && text[0] == '{'
	if !json.Valid(text) {
		var first json.RawMessage
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&first); err == nil && isObject {
			return nil, problem.New(http.StatusBadRequest, "trailing_data", "something follows the JSON object")
		}
		isObject = false
	}
	if !isObject {
		return nil, problem.New(http.StatusBadRequest, "not_json", "the body must be a JSON object")
	}
	return members(text), nil
}

// members splits an object that is known to be valid JSON.
func members(text []byte) object {
	all := make(object, 0, 12)
	for i := 1; ; {
		i += spaces(text[i:])
		if text[i] == '}' {
			return all
		}
		if text[i] == ',' {
			i++
			continue
		}
		end := i + valueLen(text[i:])
		key, _ := unquote(text[i:end]) // it is a valid string
		i = end + spaces(text[end:]) + len(":")
		i += spaces(text[i:])
		end = i + valueLen(text[i:])
		all = append(all, member{key, text[i:end:end]})
		i = end
	}
}

func spaces(text []byte) int { return len(text) - len(bytes.TrimLeft(text, " \t\r\n")) }

// valueLen is the length of the valid JSON value that a text begins with.
func valueLen(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				return i + 1 + depth // a number may end at its object's end
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// unquote reads a valid JSON string.
func unquote(raw []byte) (string, bool) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}
