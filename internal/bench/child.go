package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// Child is the process that a run starts for itself: kind and its JSON configuration. It ends by itself,
// when ctx ends, or when it is killed.
func Child(ctx context.Context, kind, config string, out io.Writer) error {
	children := map[string]func() error{
		"seed":     func() error { return with(ctx, config, out, seedChild) },
		"provider": func() error { return with(ctx, config, out, providerChild) },
		"load":     func() error { return with(ctx, config, out, loadChild) },
		"handler":  func() error { return with(ctx, config, out, handlerChild) },
		"fsync":    func() error { return with(ctx, config, out, fsyncChild) },
		"sink":     func() error { return with(ctx, config, out, sinkChild) },
		"apns":     func() error { return with(ctx, config, out, apnsChild) },
		"webpush":  func() error { return with(ctx, config, out, webpushChild) },

		"mailserver": func() error { return with(ctx, config, out, mailserverChild) },
		"dial":       func() error { return with(ctx, config, out, dialChild) },
	}
	run, ok := children[kind]
	if !ok {
		return fmt.Errorf("bench has no helper %q", kind)
	}
	return run()
}

func with[T any](ctx context.Context, config string, out io.Writer, run func(context.Context, T, io.Writer) error) error {
	var c T
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return run(ctx, c, out)
}
