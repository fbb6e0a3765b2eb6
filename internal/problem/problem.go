// Package problem writes errors as RFC 9457 problem documents.
//
// It knows no error of its own: each face (api, notify) decides which of its errors becomes which
// problem. Every function is safe for concurrent use.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// MediaType is the content type of a problem document (RFC 9457 section 3).
const MediaType = "application/problem+json"

// Problem is one problem document. Type is left "about:blank" (RFC 9457 section 4.2.1): the title is
// then the status phrase and the detail says what to do.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	// Detail is a sentence for the person who made the request.
	Detail string `json:"detail,omitempty"`
	// Field names the member of the request at fault, as a dotted path ("token.endpoint").
	Field string `json:"field,omitempty"`
	// Reason is a stable word for programs ("too_many_attempts").
	Reason string `json:"reason,omitempty"`
	// Contact is whom the person may ask, as free text or an address.
	Contact string `json:"contact,omitempty"`
	// RetryAfter, when positive, is sent as a Retry-After header in whole seconds.
	RetryAfter time.Duration `json:"-"`
}

// Error lets a handler return a Problem as an error.
func (p *Problem) Error() string {
	if p.Field != "" {
		return p.Field + ": " + p.Detail
	}
	if p.Detail != "" {
		return p.Detail
	}
	return http.StatusText(p.Status)
}

// New returns a problem with the status's phrase as its title.
func New(status int, reason, detail string) *Problem {
	return &Problem{Status: status, Title: http.StatusText(status), Detail: detail, Reason: reason}
}

// InField returns a 422 that names the field at fault.
func InField(field, detail string) *Problem {
	p := New(http.StatusUnprocessableEntity, "invalid_field", detail)
	p.Field = field
	return p
}

// Write sends p. Nothing may have been written to w before.
func Write(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	h.Set("Content-Type", MediaType)
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(p.Status)
	body, err := json.Marshal(p)
	if err != nil { // a struct of strings and one int always marshals
		return
	}
	_, _ = w.Write(append(body, '\n'))
}
