package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

func (c *cli) pushExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain USER",
		Short: "Say why a user's phones stay silent: every gate, and the first closed one",
		Long: `Walk every gate between a mail for a user and each of his devices, in the order that a notification passes
them, and say of each whether it is open, and of a closed one what to do:

  user, mailhost, subscription, listener   whether mail is reported to us at all
  client, expiry                           whether this device may be told, and wants to
  transport, credential, lane              whether its provider can be reached, and takes our credential
  token, slot, answer                      what the provider says of the device, and what waits for it

A gate is unknown where nothing has happened yet that would show it. The exit code is 1 when a gate is closed.`,
		Example: "  posthorn push explain 3@1\n  posthorn push explain 3@1 --json",
		Args:    operands("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkUser(args[0], false); err != nil {
				return err
			}
			var e api.PushExplanation
			if err := c.ask(cmd.Context(), http.MethodGet, pushExplainPath+"/"+args[0], nil, nil, &e); err != nil {
				return err
			}
			if c.json {
				if err := c.printJSON(e); err != nil {
					return err
				}
				if e.Closed != "" {
					return errReported
				}
				return nil
			}
			return c.printExplanation(e)
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

// printExplanation writes one line for each gate, one more for what it asks for, and the verdict.
func (c *cli) printExplanation(e api.PushExplanation) error {
	var b strings.Builder
	gates := func(all []api.PushGate) {
		for _, g := range all {
			detail := g.Detail
			if g.Until != "" {
				detail += ", until " + c.when(g.Until)
			}
			fmt.Fprintf(&b, "  %-12s  %-7s  %s\n", printable(g.Gate), printable(g.State), printable(detail))
			if g.Do != "" {
				fmt.Fprintf(&b, "  %-12s  %-7s  -> %s\n", "", "", printable(g.Do))
			}
		}
	}
	fmt.Fprintf(&b, "user %s\n", printable(strings.TrimSpace(e.User+" "+e.Login)))
	gates(e.Gates)
	for _, d := range e.Devices {
		fmt.Fprintf(&b, "device %s\n", printable(fmt.Sprintf("%s (%s, %s %s)", d.ID, d.Client, d.Transport, d.Target)))
		gates(d.Gates)
	}
	if _, err := io.WriteString(c.stdout, b.String()); err != nil {
		return err
	}
	if e.Closed != "" {
		return fmt.Errorf("%s: the first closed gate is %s", e.User, e.Closed)
	}
	return c.say("%s: no gate is closed. What is silent now is silent on the device, or no mail was reported.", e.User)
}
