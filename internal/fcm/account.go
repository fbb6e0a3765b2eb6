package fcm

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
)

// account is a service account's key file. Its other members (auth_uri, client_id, ...) do not
// matter for sending.
type account struct {
	Type         string `json:"type"`
	ProjectID    string `json:"project_id"`
	ClientEmail  string `json:"client_email"`
	PrivateKey   string `json:"private_key"`
	PrivateKeyID string `json:"private_key_id"`
	TokenURI     string `json:"token_uri"`
}

// LogValue and String keep the private key out of every kind of print.
func (a *account) LogValue() slog.Value {
	return slog.GroupValue(slog.String("project", a.ProjectID), slog.String("client_email", a.ClientEmail))
}

func (a *account) String() string { return "service account " + a.ClientEmail + " [redacted]" }

// projectForm also takes the old domain-scoped form, "example.com:project".
var projectForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,62}$`)

// parseAccount reads the file and names the field at fault. No error repeats the key.
func parseAccount(b []byte) (*account, error) {
	fault := func(field, problem string) (*account, error) {
		return nil, fmt.Errorf("fcm service account: %s: %s", field, problem)
	}
	if len(b) == 0 {
		return nil, errors.New("fcm service account: empty; expected the JSON key file of a service account")
	}
	a := new(account)
	if err := json.Unmarshal(b, a); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return fault(wrong.Field, "must be a string")
		}
		return nil, errors.New("fcm service account: not a JSON object; expected the JSON key file of a service account")
	}
	switch {
	case a.Type == "":
		return fault("type", "missing; this is not the key file of a service account (a google-services.json is for the app, not for a server)")
	case a.Type != "service_account":
		return fault("type", fmt.Sprintf("is %q, must be \"service_account\"", clip(a.Type, 40)))
	case a.ProjectID == "":
		return fault("project_id", "missing")
	case !projectForm.MatchString(a.ProjectID):
		return fault("project_id", "is not a project id")
	case a.ClientEmail == "":
		return fault("client_email", "missing")
	case !strings.Contains(a.ClientEmail, "@"):
		return fault("client_email", "is not an address")
	case a.PrivateKey == "":
		return fault("private_key", "missing")
	case a.TokenURI == "":
		return fault("token_uri", "missing")
	}
	if u, err := url.Parse(a.TokenURI); err != nil || !safeURL(u) {
		return fault("token_uri", "must be an https:// address")
	}
	block, _ := pem.Decode([]byte(a.PrivateKey))
	if block == nil {
		return fault("private_key", `not PEM; expected "-----BEGIN PRIVATE KEY-----" with its line breaks as \n`)
	}
	var key *rsa.PrivateKey
	if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		key, _ = parsed.(*rsa.PrivateKey)
	} else if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
		return fault("private_key", "holds no PKCS#8 key") // the cause could quote key bytes
	}
	if key == nil {
		return fault("private_key", "not an RSA key; Google's are")
	}
	if key.N.BitLen() < 2048 {
		return fault("private_key", fmt.Sprintf("an RSA key of %d bits; Google's have 2048", key.N.BitLen()))
	}
	return a, nil
}

// clip shortens foreign text for an error message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
