package listen

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestGauge counts the wanted listeners by state; a state that none is in any more is 0.
func TestGauge(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "posthorn.db"), testpeer.PostgresURL(t)} {
		f := newFixture(t, url, tenant.MailHost{IMAPHost: "127.0.0.1", IMAPPort: 1}, 5)
		for i, state := range []string{"registered", "registered", "foreign", "pending", "registered"} {
			f.exec(t, `INSERT INTO listeners (context_id, user_id, wanted, state, reason, attempt, not_before_ms, since_ms)
				VALUES (1, ?, ?, ?, '', 0, 0, 0)`, i+1, (i+1)/5^1, state) // the last is to be removed
		}
		f.count(t.Context())
		f.exec(t, `DELETE FROM listeners WHERE state = 'foreign'`)
		f.count(t.Context())
		families, err := f.Metrics.(*prometheus.Registry).Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "posthorn_listeners" {
			t.Fatalf("%v %v", families, err)
		}
		var got []string
		for _, m := range families[0].GetMetric() {
			got = append(got, fmt.Sprint(m.GetLabel()[0].GetValue(), "=", m.GetGauge().GetValue()))
		}
		if text := strings.Join(got, " "); text != "foreign=0 listening=0 pending=1 registered=2 unsupported=0 waiting_for_sign_in=0" {
			t.Error(text)
		}
	}
}
