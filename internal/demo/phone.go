package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fake"
)

// watchPhone takes the messages that the push service decrypted for the demo's phone, until ctx ends.
// Nobody else takes any: the phone is the service's only subscriber.
func watchPhone(ctx context.Context, service *fake.WebPush, b *board, log *slog.Logger) error {
	for {
		d, err := service.Next(ctx)
		if err != nil {
			return fmt.Errorf("wait for a push: %w", err)
		}
		p, err := parsePush(d.Payload)
		if err != nil {
			log.WarnContext(ctx, "push not understood", slog.Any("err", err))
			continue
		}
		b.pushed(p, d.At, time.Now())
	}
}

// parsePush reads Posthorn's message, which has the form of a Declarative Web Push.
func parsePush(payload []byte) (shownPush, error) {
	var m struct {
		WebPush      int `json:"web_push"`
		Notification struct {
			Title string   `json:"title"`
			Body  string   `json:"body"`
			Data  pushData `json:"data"`
		} `json:"notification"`
		Badge string `json:"app_badge"`
	}
	if err := json.Unmarshal(payload, &m); err != nil {
		return shownPush{}, fmt.Errorf("read the push: %w", err)
	}
	if m.WebPush != 8030 || m.Notification.Title == "" {
		return shownPush{}, errors.New("not a declarative web push")
	}
	return shownPush{Title: m.Notification.Title, Body: m.Notification.Body, Badge: m.Badge, data: m.Notification.Data}, nil
}
