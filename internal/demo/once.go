package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// onceTimeout is how long the journey of one mail may take.
const onceTimeout = 20 * time.Second

// onceMail has something outside ASCII wherever it can.
var onceMail = outgoing{
	From:    "Jörg Müller <joerg@example.org>",
	Subject: "Kaffee um drei? Grüße aus Łódź ☕",
	Text:    "Schöne Grüße!",
}

// once sends one mail, prints its way to the phone, and compares what arrived with what was sent.
func once(ctx context.Context, out io.Writer, b *board, smtpAddr, to, user string) error {
	if err := sendMail(ctx, smtpAddr, to, onceMail); err != nil {
		return err
	}
	j, err := arrival(ctx, b)
	if err != nil {
		return err
	}
	if err := printHops(out, j); err != nil {
		return err
	}
	return compare(out, j, user)
}

// arrival waits until a journey has ended at the phone.
func arrival(ctx context.Context, b *board) (*journey, error) {
	ctx, cancel := context.WithTimeout(ctx, onceTimeout)
	defer cancel()
	last := &journey{}
	for rev := 0; ; {
		var (
			news    []journey
			changed <-chan struct{}
		)
		news, rev, changed = b.since(rev)
		for i := range news {
			last = &news[i]
		}
		_, answered := last.at(hopAnswer)
		switch {
		case last.Problem != "":
			return nil, fmt.Errorf("the mail did not reach the phone: %s", last.Problem)
		case last.Shown != nil && answered: // the push may overtake the answer
			return last, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			reached := "nothing"
			if n := len(last.Hops); n > 0 {
				reached = last.Hops[n-1].Name
			}
			return nil, fmt.Errorf("wait for the phone (last hop: %s): %w", reached, ctx.Err())
		}
	}
}

// hopTitles says what each hop's time means.
var hopTitles = map[string]string{
	hopMail:   "mail accepted by the mail server",
	hopNotify: "notification sent to Posthorn",
	hopAnswer: "Posthorn answered: durably queued",
	hopPush:   "push sent, taken by the push service",
	hopPhone:  "push decrypted on the phone",
}

// printHops writes a table: each hop, what it took, and the time since the mail was accepted.
func printHops(out io.Writer, j *journey) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%-38s%10s%10s\n", "hop", "took", "at")
	previous := int64(0)
	for _, h := range j.Hops {
		took := ""
		switch {
		case h.Name == hopMail:
		case h.AtMicros < previous: // the push overtook the answer
			took = "meanwhile"
		default:
			took = millis(time.Duration(h.AtMicros-previous) * time.Microsecond)
		}
		fmt.Fprintf(&s, "%-38s%10s%10s\n", hopTitles[h.Name], took, millis(time.Duration(h.AtMicros)*time.Microsecond))
		previous = h.AtMicros
	}
	_, err := io.WriteString(out, s.String())
	return err
}

// compare checks the decrypted notification against the mail as it was sent and stored.
func compare(out io.Writer, j *journey, user string) error {
	from, err := onceMail.check()
	if err != nil {
		return err
	}
	d := j.Shown.data
	unseen := "none"
	if d.Unseen != nil {
		unseen = fmt.Sprint(*d.Unseen)
	}
	wrong := 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w)
	for _, c := range []struct{ field, got, want string }{
		{"sender", j.Shown.Title, from.Name},
		{"subject", j.Shown.Body, onceMail.Subject},
		{"unseen", unseen, fmt.Sprint(j.Unseen)},
		{"badge", j.Shown.Badge, fmt.Sprint(j.Unseen)},
		{"folder", d.Folder, "INBOX"},
		{"uid", fmt.Sprintf("%d/%d", d.UIDValidity, d.UID), fmt.Sprintf("%d/%d", j.UIDValidity, j.UID)},
		{"user", d.User, user},
		{"topic", d.Topic, "mail:new"},
	} {
		verdict := "as sent"
		if c.got != c.want {
			verdict = fmt.Sprintf("WRONG, sent %q", c.want)
			wrong++
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", c.field, c.got, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if wrong > 0 {
		return errors.New("the notification differs from the mail")
	}
	return nil
}
