package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const discoverPath = "/admin/v1/discover"

func (c *cli) discoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discover INPUT",
		Short: "Find out what server a typed address means, and what it lacks",
		Long: `Find out what a user's app would find: INPUT is the base address of a server, a host, or a mail address.
Looked for are a Posthorn (/.well-known/posthorn) and another JMAP server (/.well-known/jmap) there, the
domain's SRV records, its autoconfig documents, those of who receives its mail, and last the names that
mail servers usually have. What is found must answer with a certificate that is trusted.

The running server asks, so it sees what it can reach. It asks no internal address, unless outbound.allow
lists it. The exit code is 1 when neither a Posthorn nor a mail server was found.`,
		Example: "  posthorn discover https://gold.ox.io\n  posthorn discover alice@example.org --json",
		Args:    operands("INPUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d api.Discovery
			if err := c.ask(cmd.Context(), http.MethodPost, discoverPath, nil, api.Discover{Input: args[0]}, &d); err != nil {
				return err
			}
			show := c.printDiscovery
			if c.json {
				show = func(d api.Discovery) error { return c.printJSON(d) }
			}
			if err := show(d); err != nil {
				return err
			}
			if d.Found == "nothing" {
				return errReported
			}
			return nil
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) printDiscovery(d api.Discovery) error {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(printable(fmt.Sprintf(format, args...)) + "\n") }
	line("Understood: %s, mail domain %s", d.Understood.Base, d.Understood.Domain)
	for _, note := range d.Understood.Notes {
		line("  %s", note)
	}
	for _, s := range d.Steps {
		line("  %s %-10s %s", marks[string(s.State)], s.Name, s.Target)
		line("  %12s %s", "", s.Detail)
	}
	line("%s", d.Detail)
	for _, m := range d.MailServers {
		elsewhere := ""
		if m.Elsewhere {
			elsewhere = "; not of this domain, which only DNS says"
		}
		line("  %-10s %s:%d, %s, login: %s (%s)%s", m.Protocol, m.Host, m.Port, m.Security, strings.ReplaceAll(m.Login, "_", " "), m.Source, elsewhere)
	}
	if d.JMAP != "" {
		line("  %-10s %s", "jmap", d.JMAP)
	}
	_, err := fmt.Fprint(c.stdout, b.String())
	return err
}
