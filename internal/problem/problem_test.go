package problem_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/problem"
)

func TestWrite(t *testing.T) {
	late := problem.New(503, "store_unavailable", "send it again")
	late.RetryAfter = 1001 * time.Millisecond
	for _, c := range []struct {
		problem    *problem.Problem
		body       string
		retryAfter string
	}{
		{problem.New(404, "not_found", "there is nothing"), `{"status":404,"title":"Not Found","detail":"there is nothing","reason":"not_found"}`, ""},
		{problem.InField("token.endpoint", `must be "https"`), `{"status":422,"title":"Unprocessable Entity","detail":"must be \"https\"","field":"token.endpoint","reason":"invalid_field"}`, ""},
		{late, `{"status":503,"title":"Service Unavailable","detail":"send it again","reason":"store_unavailable"}`, "2"},
		{problem.New(500, "", ""), `{"status":500,"title":"Internal Server Error"}`, ""},
	} {
		w := httptest.NewRecorder()
		problem.Write(w, c.problem)
		if got := w.Body.String(); got != c.body+"\n" || w.Code != c.problem.Status {
			t.Errorf("status %d, body %s, want %s", w.Code, got, c.body)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/problem+json", "Cache-Control": "no-store", "Retry-After": c.retryAfter,
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
}

func TestError(t *testing.T) {
	for want, p := range map[string]*problem.Problem{
		"folder: is missing":    problem.InField("folder", "is missing"),
		"the store is away":     problem.New(503, "x", "the store is away"),
		"Internal Server Error": problem.New(500, "x", ""),
	} {
		err := fmt.Errorf("answer: %w", p)
		var found *problem.Problem
		if p.Error() != want || !errors.As(err, &found) || found != p {
			t.Errorf("error %q, want %q", p, want)
		}
	}
}
