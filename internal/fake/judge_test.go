package fake_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestIndependentClients: clients that others wrote for Apple's service get from the fake what they would get
// there. Each has a fake of its own, for each signs a token of its own with the one key.
func TestIndependentClients(t *testing.T) {
	for _, script := range []string{"node-apn", "apns2"} {
		t.Run(script, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			check(t, err)
			a, err := fake.NewAPNs(fake.APNsConfig{
				Keys:   []fake.APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &key.PublicKey}},
				Topics: []string{"com.example.mail"},
			})
			check(t, err)
			defer a.Close() //nolint:errcheck // nothing is left to lose
			device, gone := strings.Repeat("0a", 32), strings.Repeat("0b", 32)
			a.Register(device)
			a.Unregister(gone, time.Now())

			dir := t.TempDir()
			der, err := x509.MarshalPKCS8PrivateKey(key)
			check(t, err)
			keyFile, caFile := filepath.Join(dir, "key.p8"), filepath.Join(dir, "ca.pem")
			check(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
			check(t, os.WriteFile(caFile, a.CAPEM(), 0o600))
			cmd := testpeer.Node(t, "testdata/"+script+".cjs", a.URL(), keyFile, "ABC123DEFG", "DEF123GHIJ", "com.example.mail", device, gone)
			cmd.Env = append(cmd.Env, "NODE_EXTRA_CA_CERTS="+caFile)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			check(t, err)

			var results []string
			if err := json.Unmarshal(out, &results); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			want := append(slices.Repeat([]string{"sent"}, 102), "Unregistered", "TopicDisallowed", "PayloadTooLarge")
			if !slices.Equal(results, want) {
				t.Errorf("the client saw %q", results)
			}
			if n := a.Count(200, ""); n != 102 {
				t.Errorf("%d taken, all answers %v", n, a.Counts())
			}
			first, second := a.Deliveries()[0], a.Deliveries()[1]
			// apns2 does not name the priority that is the default.
			maps.DeleteFunc(first.Headers, func(name, value string) bool { return name == "apns-priority" && value == "10" })
			if !maps.Equal(first.Headers, map[string]string{
				"apns-topic": "com.example.mail", "apns-push-type": "alert", "apns-expiration": "2000000000", "apns-collapse-id": "mail",
			}) {
				t.Errorf("headers %v", first.Headers)
			}
			var payload struct {
				APS struct {
					Alert struct{ Title, Body string }
					Badge int
					Sound string
				}
				Folder string
			}
			check(t, json.Unmarshal(first.Payload, &payload))
			if p := payload; p.APS.Alert.Title != "Ann" || p.APS.Alert.Body != "Grüße 🐎" || p.APS.Badge != 3 || p.APS.Sound != "default" || p.Folder != "INBOX" {
				t.Errorf("payload %s", first.Payload)
			}
			if second.Headers["apns-push-type"] != "background" || second.Headers["apns-priority"] != "5" {
				t.Errorf("headers %v", second.Headers)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
