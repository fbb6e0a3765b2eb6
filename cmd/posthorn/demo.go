package main

import (
	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/demo"
)

func (c *cli) demoCommand() *cobra.Command {
	cfg := demo.Config{}
	verbose := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See a mail arrive on a phone, with nothing else installed",
		Long: `Run a mail server, Posthorn, a push service and a phone in one process, with a page that shows the
phone, a form to send it a mail, and the time that each hop took. Nothing else is needed and nothing is
kept; no configuration is read.`,
		Example: "  posthorn demo\n  posthorn demo --once",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = c.stdout
			if verbose {
				cfg.Log = newLogger(c.stderr, config.Log{Level: "debug", Format: "text"})
			}
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&cfg.Once, "once", false, "send one mail without a page, print its way to the phone, and exit 0 if it arrived as sent")
	f.StringVar(&cfg.PageAddr, "page-addr", "", "`HOST:PORT` of the page (default "+demo.DefaultPageAddr+")")
	f.StringVar(&cfg.SMTPAddr, "smtp-addr", "", "`HOST:PORT` at which mail is taken (default "+demo.DefaultSMTPAddr+"; with --once any port)")
	f.BoolVar(&verbose, "verbose", false, "show what Posthorn and the mail server log")
	return cmd
}
