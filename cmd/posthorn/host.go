package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const hostsPath = "/admin/v1/hosts"

func (c *cli) hostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "Show by which hosts the app may sign in (mailapp-config.yml)"}
	cmd.AddCommand(c.hostList(), c.hostCheck())
	return cmd
}

func (c *cli) hostList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the host rules in force",
		Long:    "List the host rules that the running server has in force. They are in the file that hosts_file names; change\nthem there, then \"posthorn reload\".",
		Example: "  posthorn host list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.HostRule](cmd.Context(), c, hostsPath, nil)
			if err != nil {
				return err
			}
			return table[api.HostRule]{
				empty:  "There are no host rules: the app may sign in by every host.",
				header: []string{"RULE", "HOST", "APP", "WHERE"},
				row: func(x api.HostRule) []string {
					return []string{x.Name, x.Host, allowed(x.Allowed), fmt.Sprintf("%s:%d", x.File, x.Line)}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) hostCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check HOST",
		Short: "Say whether the app may sign in by a host, and which rule says so",
		Long: "Say whether the app may sign in by a host, and which rule says so: the one for the host itself, else the one for\n" +
			"the longest domain above it (\"*.example.org\"), else the one for all. The exit code is 1 when it may not.",
		Example: "  posthorn host check mail.example.org",
		Args:    operands("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v api.HostVerdict
			if err := c.ask(cmd.Context(), http.MethodGet, hostsPath+"/check", url.Values{"host": {args[0]}}, nil, &v); err != nil {
				return err
			}
			where := ""
			if v.Rule != nil {
				where = fmt.Sprintf(" (%s, host: %s, %s:%d)", v.Rule.Name, v.Rule.Host, v.Rule.File, v.Rule.Line)
			}
			if err := c.done(v, "%s: %s: %s%s", printable(v.Host), allowed(v.Allowed), printable(v.Why), printable(where)); err != nil {
				return err
			}
			if !v.Allowed {
				return errReported
			}
			return nil
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

func allowed(yes bool) string {
	if yes {
		return "allowed"
	}
	return "refused"
}
