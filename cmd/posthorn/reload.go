package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const reloadPath = "/admin/v1/reload"

func (c *cli) reloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server read its push credentials and host rules again",
		Long: `Have the running server read its configuration, keys, certificates, service accounts and host rules again, without
interrupting anything: what is being sent ends with the credential it began with. When anything is wrong with
one of them, all stay as they are, the errors are shown, and the exit code is 1.

Taken over are transports.apns.apps, transports.fcm.apps, key and subject of transports.webpush, hosts_file, properties and
context_sets_dir.
Other keys that differ are named, and need a restart.`,
		Example: "  posthorn config check && posthorn reload",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done api.Reloaded
			if err := c.ask(cmd.Context(), "POST", reloadPath, nil, nil, &done); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(done)
			}
			text := "Nothing has changed.\n"
			if len(done.Changed) > 0 {
				text = "Changed: " + strings.Join(done.Changed, ", ") + "\n"
			}
			if len(done.NeedsRestart) > 0 {
				text += "Changed as well, but needs a restart: " + strings.Join(done.NeedsRestart, ", ") + "\n"
			}
			_, err := fmt.Fprint(c.stdout, text)
			return err
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
