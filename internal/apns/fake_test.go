package apns_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestStrictFake sends to the fake that demo and bench use, which shares no code with this package and
// keeps Apple's rule of one stream until the first acceptance.
func TestStrictFake(t *testing.T) {
	for _, netHTTP := range []bool{false, true} {
		t.Run(fmt.Sprintf("net/http=%v", netHTTP), func(t *testing.T) {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			key, err := apns.LoadTokenKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ABC123DEFG", "DEF123GHIJ")
			if err != nil {
				t.Fatal(err)
			}
			f, err := fake.NewAPNs(fake.APNsConfig{
				Keys:   []fake.APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &private.PublicKey}},
				Topics: []string{"org.posthorn.mail"}, FirstStream: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			s, err := apns.New(apns.Config{URL: f.URL(), Environment: apns.Sandbox, Topic: "org.posthorn.mail", TokenKey: key, RootCAs: f.RootCAs(), HTTP2Transport: netHTTP})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()

			const devices = 500
			message := func(i int) apns.Message {
				return apns.Message{
					ID: fmt.Sprintf("0f3b7d6e-1111-4222-8333-%012x", i), Payload: fmt.Appendf(nil, `{"aps":{"badge":%d}}`, i), PushType: apns.Alert, Priority: 10,
					Expiration: time.Now().Add(time.Hour), CollapseID: fmt.Sprint("slot-", i),
				}
			}
			device := func(i int) string { return fmt.Sprintf("%064x", i) }
			gone := time.UnixMilli(time.Now().Add(-time.Hour).UnixMilli())
			f.Unregister(device(7), gone)
			var wg sync.WaitGroup
			for i := range devices {
				wg.Go(func() {
					o := s.Send(t.Context(), device(i), message(i))
					if i == 7 {
						if o.Kind != outcome.Gone || !o.GoneSince.Equal(gone) {
							t.Errorf("unregistered: %+v", o)
						}
						return
					}
					if o.Kind != outcome.Delivered || o.ProviderID != message(i).ID {
						t.Errorf("outcome %+v", o)
					}
				})
			}
			wg.Wait()
			n, limit := s.Streams()
			for i := devices; limit == 1 && !netHTTP && i < devices+20; i++ { // a connection that was opened last has said nothing yet
				s.Send(t.Context(), device(i), message(i))
				n, limit = s.Streams()
			}
			if n != 0 || (limit != 1000 && !netHTTP) {
				t.Errorf("%d of %d streams", n, limit)
			}
			for _, d := range f.Deliveries() {
				var i int
				if _, err := fmt.Sscanf(d.Headers["apns-collapse-id"], "slot-%d", &i); err != nil {
					t.Fatal(err)
				}
				if d.Target != device(i) || d.ID != message(i).ID || !bytes.Equal(d.Payload, message(i).Payload) || d.Headers["apns-priority"] != "10" || d.Headers["apns-push-type"] != "alert" {
					t.Errorf("delivery %d: %+v", i, d)
				}
			}
			if n := f.Count(200, ""); n != devices-1 {
				t.Errorf("%d accepted", n)
			}
			if n := f.Count(0, "REFUSED_STREAM"); n != 0 {
				t.Errorf("%d streams above the limit", n)
			}
		})
	}
}
