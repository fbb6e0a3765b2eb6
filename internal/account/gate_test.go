package account

import (
	"context"
	"errors"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// A gate is asked with what was proven and opens nothing when it refuses; it is not asked for who proves nothing.
func TestGate(t *testing.T) {
	t.Parallel()
	var asked []GateRequest
	refusal := &RefusedError{Reason: "host_not_allowed", Detail: "not by this host", Contact: "help@example.org"}
	s := newService(t, testpeer.SQLiteURL(t), func(c *Config) {
		c.Gate = func(_ context.Context, req GateRequest) error {
			asked = append(asked, req)
			if req.Host != "good.example" {
				return refusal
			}
			return nil
		}
	})
	addHost(t, s, scripted(t, map[string]string{
		"greeting": "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n", "AUTHENTICATE": "%s OK [CAPABILITY IMAP4rev1] in\r\n", "LOGOUT": "%s OK bye\r\n",
	}))
	alice := addUser(t, s, "alice", "dove")
	req := request("alice", secret)
	req.Host = "bad.example"
	for range 2 * s.AttemptsPerAddress { // it is no guess
		_, token, err := s.SignIn(t.Context(), req)
		var got *RefusedError
		if !errors.As(err, &got) || got != refusal || token != "" {
			t.Fatalf("%v", err)
		}
	}
	if want := (GateRequest{User: alice, Client: "app", Host: "bad.example", Address: req.Address}); asked[0] != want {
		t.Errorf("asked %+v, want %+v", asked[0], want)
	}
	if n := count(t, s, "SELECT COUNT(*) FROM sessions") + count(t, s, "SELECT COUNT(*) FROM credentials"); n != 0 {
		t.Errorf("%d rows are stored", n)
	}
	req.Host = "good.example"
	if _, _, err := s.SignIn(t.Context(), req); err != nil {
		t.Error(err)
	}
	asked = nil
	if _, _, err := s.SignIn(t.Context(), request("nobody", secret)); !errors.Is(err, ErrBadLogin) || asked != nil {
		t.Errorf("asked %+v for nobody, %v", asked, err)
	}
}
