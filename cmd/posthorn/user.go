package main

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const usersPath = "/admin/v1/users"

func (c *cli) userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Add, import, list and remove mail users"}
	cmd.AddCommand(c.userAdd(), c.userImport(), c.userList(), c.userRemove())
	return cmd
}

func (c *cli) userAdd() *cobra.Command {
	var in api.User
	cmd := &cobra.Command{
		Use:   "add [ID]@CONTEXT LOGIN --mailhost NAME",
		Short: "Add a user",
		Long: "Add a user: LOGIN is what he signs in with at the mail host, and what the mail host calls him in\n" +
			"its notifications. Without ID the next free one of the context is taken.",
		Example: "  posthorn user add 3@1 alice@example.org --mailhost main\n" +
			"  posthorn user add @1 bob@example.org --mailhost main --json",
		Args: operands("[ID]@CONTEXT", "LOGIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.User, in.Login = args[0], args[1]
			if err := checkUser(in.User, true); err != nil {
				return err
			}
			if in.MailHost == "" {
				return usagef(`--mailhost is missing ("posthorn mailhost list" shows the names)`)
			}
			var out api.User
			if err := c.ask(cmd.Context(), http.MethodPost, usersPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "User %s (%s at %s) added.", out.User, printable(out.Login), printable(out.MailHost))
		},
	}
	cmd.Flags().StringVar(&in.MailHost, "mailhost", "", "`NAME` of the mail host where the mailbox is")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) userList() *cobra.Command {
	var (
		contextNo int64
		mailhost  string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: "  posthorn user list\n  posthorn user list --context 1 --mailhost main --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if cmd.Flags().Changed("context") {
				if contextNo < 1 {
					return usagef("--context %d: contexts are counted from 1", contextNo)
				}
				q.Set("context", strconv.FormatInt(contextNo, 10))
			}
			if mailhost != "" {
				q.Set("mailhost", mailhost)
			}
			items, err := fetch[api.User](cmd.Context(), c, usersPath, q)
			if err != nil {
				return err
			}
			return table[api.User]{
				empty:  `There are no such users; add one with "posthorn user add @CONTEXT LOGIN --mailhost NAME".`,
				header: []string{"USER", "LOGIN", "MAILHOST"},
				row:    func(u api.User) []string { return []string{u.User, u.Login, u.MailHost} },
			}.print(c, items)
		},
	}
	cmd.Flags().Int64Var(&contextNo, "context", 0, "only users of context `N`")
	cmd.Flags().StringVar(&mailhost, "mailhost", "", "only users of the mail host `NAME`")
	c.listFlag(cmd)
	return cmd
}

func (c *cli) userRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove USER",
		Short:   "Remove a user, with sessions, subscriptions and stored credentials",
		Example: "  posthorn user remove 3@1",
		Args:    operands("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkUser(args[0], false); err != nil {
				return err
			}
			if err := c.ask(cmd.Context(), http.MethodDelete, usersPath+"/"+args[0], nil, nil, nil); err != nil {
				return err
			}
			return c.done(removed{args[0]}, "User %s removed.", args[0])
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
