package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

func (c *cli) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until SIGINT or SIGTERM. It then stops listening and finishes what it has begun; a
second signal ends it at once, and loses nothing that was acknowledged. SIGHUP does what "posthorn reload" does.

It needs no configuration. At first start it makes its state directory, with the keys and the notify
password, and prints where they are.`,
		Example: "  posthorn serve\n  posthorn --config ./posthorn.yml serve",
		Args:    operands(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context()) },
	}
}

func (c *cli) serve(ctx context.Context) error {
	cfg, err := c.loadConfig()
	if err != nil {
		return err
	}
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	defer signal.Stop(hangUp)
	log := newLogger(c.stderr, cfg.Log)
	s, err := server.New(ctx, cfg, server.Options{Log: log, Version: readVersion().Version, LoadConfig: func() (*config.Config, error) {
		c.warned = false
		return c.loadConfig()
	}})
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // told to stop while it started: nothing is wrong
	} else if err != nil {
		return err
	}
	if err := announce(c.stdout, cfg, s); err != nil {
		return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	log.InfoContext(ctx, "serving", slog.String("public", s.PublicAddr()), slog.String("internal", s.InternalAddr()),
		slog.String("state_dir", cfg.StateDir), slog.String("version", readVersion().Version))
	if err := c.tellSystemd(ctx, "READY=1"); err != nil {
		log.WarnContext(ctx, "cannot say that the server is ready", slog.Any("err", err))
	}
	running, stop := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for running.Err() == nil {
			select {
			case <-running.Done():
			case <-hangUp:
				_, _ = s.Reload(running) // which logs what came of it
			}
		}
		if ctx.Err() != nil {
			_ = c.tellSystemd(context.WithoutCancel(ctx), "STOPPING=1") // it sees the process end anyway
			log.InfoContext(ctx, "stopping: finishing what has begun; a second signal ends at once")
		}
	}()
	err = s.Run(ctx)
	stop()
	<-told
	log.InfoContext(ctx, "stopped")
	return err
}

// newLogger writes for people when people read it, and for programs otherwise.
func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // cannot be: config.Check knows the words
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" || cfg.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// announce says once, on stdout, what an operator must know of this start: where the precious files
// are, and where we listen.
func announce(w io.Writer, cfg *config.Config, s *server.Server) error {
	files := s.Files() // a secret that is not there is where the configuration says
	notify, vapid := files["notify password"], files["VAPID key"]
	if notify == "" {
		notify = cfg.Origin("internal.notify.password")
		if cfg.Internal.Notify.Password.Reveal() == "" {
			notify += " (empty: none is asked for)"
		}
	}
	switch {
	case vapid != "":
	case cfg.Transports.WebPush.Enabled:
		vapid = cfg.Origin("transports.webpush.vapid_key")
	default:
		vapid = "none: Web Push is off"
	}
	scheme := "http://"
	if cfg.Public.HTTPS() {
		scheme = "https://"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, versionLine()) // errors come back from Flush
	for _, line := range [][2]string{
		{"state directory", cfg.StateDir},
		{"seal key", files["seal key"]},
		{"notify password", notify},
		{"VAPID key", vapid},
		{"admin socket", filepath.Join(cfg.StateDir, api.SocketName)},
		{"for devices", scheme + s.PublicAddr()},
		{"for mail servers", "http://" + s.InternalAddr() + notifyPath},
	} {
		_, _ = fmt.Fprintf(t, "  %s\t%s\n", line[0], line[1])
	}
	return t.Flush()
}
