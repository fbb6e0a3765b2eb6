package push

import (
	"bytes"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestCertificateEnds: warned of at 30, 7 and 1 days and at the end, once each, and anew after it was renewed.
func TestCertificateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		var log bytes.Buffer
		provider := newScript("apns", nil)
		provider.expires = time.Now().Add(40*day + time.Minute)
		s := newRig(t, sqliteURL(t), 1).service(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }, provider)
		said := func() string {
			days := regexp.MustCompile(`level=(\w+) msg="(credential [^:]*):[^\n]*?(days_left=\d+)?\n`).FindAllStringSubmatch(log.String(), -1)
			log.Reset()
			var all []string
			for _, m := range days {
				all = append(all, strings.TrimSpace(m[1]+" "+m[3]))
			}
			return strings.Join(all, ", ")
		}
		days := func(n int) { // each hour of them, as housekeeping does
			for range 24 * n {
				advance(time.Hour)
				s.watch(t.Context())
			}
		}
		days(10)
		want(t, "40 to 30 days before", said(), "")
		days(1)
		want(t, "the 30th", said(), "WARN days_left=29")
		days(21)
		want(t, "up to the 8th", said(), "")
		days(4)
		want(t, "the 7th", said(), "WARN days_left=6")
		days(4)
		want(t, "the last", said(), "WARN days_left=0")
		days(10)
		want(t, "the end", said(), "ERROR")
		provider.expires = time.Now().Add(5 * day)
		s.Renewed(t.Context())
		want(t, "renewed for five days only", said(), "WARN days_left=5")
		days(1)
		want(t, "a day later", said(), "")
		provider.expires = time.Now().Add(365 * day)
		days(334)
		want(t, "renewed for a year", said(), "")
		days(2)
		want(t, "at the end of that", said(), "WARN days_left=30")

		provider.expires = time.Now().Add(-time.Hour)
		r := newRig(t, sqliteURL(t), 1)
		late := r.service(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }, provider)
		r.start(late)
		synctest.Wait()
		want(t, "a start after the end", said(), "ERROR")
	})
}

// TestCredentialGauges reads them of real senders, before and after a send.
func TestCredentialGauges(t *testing.T) {
	b := newBench(t, PrivacyFull)
	clock := time.Now().Truncate(time.Second)
	ends := clock.Add(time.Hour)
	b.apns.Apps[0].Expires, b.apns.Apps[0].Since = ends, clock
	reg := prometheus.NewRegistry()
	must(t, reg.Register(&credentialGauges{b.transports(), func() time.Time { return clock.Add(10 * time.Minute) }}))
	gauge := func(name string) string { return gaugesOf(t, reg, "posthorn_push_"+name) }
	want(t, "expiry", gauge("credential_expiry_timestamp_seconds"), fmt.Sprintf("0/com.example.mail=%v", float64(ends.Unix())))
	want(t, "tokens before a send", gauge("token_age_seconds"), "")
	want(t, "streams before a send", gauge("streams_limit"), "0/com.example.mail=1")
	for _, tr := range b.transports() {
		if o, _ := b.send(tr, Notification{Collapse: strings.Repeat("c", 32), Expires: moment.Add(time.Hour), Input: Input{Topic: "mail:new"}}); o.Kind != outcome.Delivered {
			t.Fatalf("%s: %+v", tr.Name(), o)
		}
	}
	want(t, "streams", gauge("streams_limit"), "0/com.example.mail=1000")
	ages := regexp.MustCompile(`^0/com.example.mail=(\d+).* 0/posthorn-fake=(\d+).* vapid=(\d+)`).FindStringSubmatch(gauge("token_age_seconds"))
	if len(ages) != 4 {
		t.Fatalf("ages %q", gauge("token_age_seconds"))
	}
	for i, most := range []float64{55 * 60, 11 * 60, 11 * 60} { // Apple's token is as old as the bucket it was made for
		var age float64
		_, _ = fmt.Sscan(ages[i+1], &age)
		if age < 590 || age > most {
			t.Errorf("token %d is %v s old", i, age)
		}
	}
}

// TestNewCredentialIsTriedAtOnce: the lane of a replaced credential rests no more, others go on resting.
func TestNewCredentialIsTriedAtOnce(t *testing.T) {
	since := time.Now()
	s := newScheduler(10, func(lane string) Credential {
		if lane == "apns/new" {
			return Credential{Name: lane, Since: since}
		}
		return Credential{Name: lane}
	})
	now := time.Now()
	for i := range 10 {
		for n, lane := range []string{"apns/new", "apns/same"} {
			s.add([]Due{{id: slotID{fmt.Sprintf("%024x", 2*i+n), "k"}, lane: lane, device: uint64(2*i + n)}})
		}
	}
	round(t, s, now, refused)
	now = now.Add(time.Second)
	want(t, "while both rest", round(t, s, now, healthy), 0)
	s.renew()
	want(t, "nothing was replaced", round(t, s, now, healthy), 0)
	since = now
	s.renew()
	for i, n := range []int{1, 2, 4} { // and from there on as after any rest
		now = now.Add(time.Second)
		want(t, fmt.Sprint("probes ", i), round(t, s, now, healthy), n)
	}
	want(t, "known of it", s.lanes["apns/new"].credential.Since, since)
	want(t, "the other one", s.lanes["apns/same"].breaker, breakerOpen)
}
