package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

func (c *cli) credentialsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "credentials", Short: "Seal what is kept to sign in at mail servers anew"}
	cmd.AddCommand(c.credentialsRotate())
	return cmd
}

func (c *cli) credentialsRotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Seal everything anew with the key in use",
		Long: `Have the running server seal everything anew with the key that seals now: passwords and tokens of users, device
tokens, and the secrets of mail hosts, in the database and in the cluster memory. Afterwards the keys of before
(credentials.old_passphrases, further lines of seal.key, seal.key itself beside a passphrase) are needed no more.

The server goes on working meanwhile. A rotation that was interrupted is run again: it passes over what is done.
Restart all servers with the new key in use first.`,
		Example: "  posthorn credentials rotate\n  posthorn credentials rotate --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all api.Rotated
			bar := progress{c: c, on: !c.json && isTerminal(c.stderr)}
			for {
				var done api.Rotated
				if err := c.ask(cmd.Context(), "POST", "/admin/v1/credentials/rotate", nil, api.Rotate{After: all.Next}, &done); err != nil {
					bar.end()
					if all.Next != "" {
						_ = c.say("posthorn: not everything is sealed anew: run it again to go on")
					}
					return err
				}
				all.Key, all.Next = done.Key, done.Next
				all.Total = max(all.Total, done.Total)
				all.Seen, all.Changed, all.Lost = all.Seen+done.Seen, all.Changed+done.Changed, append(all.Lost, done.Lost...)
				bar.show(all.Seen, all.Total)
				if done.Next == "" {
					break
				}
			}
			bar.end()
			all.Total = all.Seen
			if err := c.done(all, "Sealed anew with key %s: %d of %d values.", all.Key, all.Changed, all.Seen); err != nil {
				return err
			}
			if n := len(all.Lost); n > 0 {
				_ = c.say("posthorn: no key opens %d values; they are left as they are: %s", n, printable(strings.Join(all.Lost[:min(n, 20)], ", ")))
				return errReported
			}
			return nil
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

// progress is a bar on a terminal.
type progress struct {
	c     *cli
	on    bool
	shown string
}

func (p *progress) show(done, total int) {
	const width = 40
	if !p.on {
		return
	}
	total = max(total, done, 1)
	full := width * done / total
	line := fmt.Sprintf("\r[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat("-", width-full), done, total)
	if line != p.shown {
		p.shown = line
		_, _ = fmt.Fprint(p.c.stderr, line)
	}
}

// end leaves the line of the bar.
func (p *progress) end() {
	if p.shown != "" {
		_, _ = fmt.Fprintln(p.c.stderr)
	}
	p.on = false
}
