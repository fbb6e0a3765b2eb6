package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"

	"github.com/google/uuid"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// probes opens a provider's credentials beside those in use, each to be asked for at Apple or Google by a message for a
// device that there is not. Nothing of it touches the queue.
func (t *transports) probes(p tenant.Provider) (all []onboard.PushProbe, closed func()) {
	t.mu.Lock()
	beside := &transports{guard: t.guard, subject: t.subject}
	t.mu.Unlock()
	m, problems := beside.open(p, t.webpush.Now)
	for _, err := range problems {
		all = append(all, onboard.PushProbe{Name: "credential", Err: err})
	}
	for _, k := range m.apns {
		if !k.app.Expires.IsZero() && k.app.Expires.Before(t.webpush.Now()) {
			continue // it is among the problems
		}
		send := func(ctx context.Context) onboard.PushAnswer {
			var token [32]byte
			_, _ = rand.Read(token[:]) // never fails (crypto/rand)
			return answerOf(k.app.Sender.Send(ctx, hex.EncodeToString(token[:]), apns.Message{
				ID: uuid.NewString(), Payload: []byte(`{"aps":{"content-available":1}}`), PushType: "background", Priority: 5,
			}))
		}
		all = append(all, onboard.PushProbe{Transport: "apns", Name: "apns " + k.app.Topic, Ends: k.app.Expires, Send: send})
	}
	for _, k := range m.fcm {
		send := func(ctx context.Context) onboard.PushAnswer {
			return answerOf(k.app.Sender.Send(ctx, "posthorn-check:"+rand.Text(), fcm.Message{Data: map[string]string{"check": "1"}, Priority: "NORMAL", RestrictedPackage: k.app.Package}))
		}
		all = append(all, onboard.PushProbe{Transport: "fcm", Name: "fcm " + k.app.Project, Send: send})
	}
	for range m.vapid {
		all = append(all, onboard.PushProbe{Transport: "webpush", Name: "webpush"})
	}
	return all, func() {
		for _, k := range m.apns {
			k.app.Retire()
		}
		for _, k := range m.fcm {
			k.app.Retire()
		}
	}
}

func answerOf(o outcome.Outcome) onboard.PushAnswer {
	return onboard.PushAnswer{Outcome: o.Kind.String(), Reason: o.Reason, Status: o.Status, Err: o.Err}
}

// testPush tells all devices of a user.
func testPush(ctx context.Context, subs *subscription.Store, service *push.Service, u tenant.UserID) ([]onboard.PushAnswer, error) {
	all, err := subs.ByUser(ctx, u)
	if err != nil {
		return nil, err
	}
	answers := make([]onboard.PushAnswer, 0, len(all))
	for _, sub := range all {
		o, err := service.Test(ctx, sub.ID)
		a := answerOf(o)
		switch {
		case errors.Is(err, push.ErrNoTransport):
			a = onboard.PushAnswer{Outcome: "blocked", Reason: "transport_disabled"}
		case err != nil:
			return nil, err
		}
		a.Device = sub.ID
		answers = append(answers, a)
	}
	return answers, nil
}
