package main

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const (
	pushUsersPath   = "/admin/v1/push/users"
	pushDevicesPath = "/admin/v1/push/devices"
	pushExplainPath = "/admin/v1/push/explain"
	pushTestPath    = "/admin/v1/push/test"
	pushTracePath   = "/admin/v1/push/trace"
)

func (c *cli) pushCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "push", Short: "See who is told of new mail, and why a phone stayed silent"}
	cmd.AddCommand(c.pushUsers(), c.pushDevices(), c.pushExplain(), c.pushTest(), c.pushTrace(), c.pushPhone())
	return cmd
}

func (c *cli) pushUsers() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "users [USER]",
		Short: "List users with a listener, and its state at the mail host",
		Long: `List the users who have subscribed devices, and the state of each one's listener at the mail host:

  registered           the mail host notifies us of this user's mail
  listening            we hold a connection to the mail host, or look there now and then
  pending              not done yet; REASON says why, and we keep trying
  waiting_for_sign_in  there is no password, or a rejected one; the user's next sign-in brings it
  foreign              another system's registration is in the mailbox; ours would overwrite it
  unsupported          the mail host offers no METADATA, so nobody can register there
  client_not_allowed   this client may not be told`,
		Example: "  posthorn push users\n  posthorn push users 3@1 --json",
		Args:    operands("[USER]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := userQuery(args)
			if err != nil {
				return err
			}
			items, err := fetch[api.PushUser](cmd.Context(), c, pushUsersPath, q)
			if err != nil {
				return err
			}
			return table[api.PushUser]{
				empty:  nothing(args, "Nobody has a listener: no device has subscribed.", "%s has no listener: no device has subscribed."),
				header: []string{"USER", "LOGIN", "NODE", "SOURCE", "PERMANENT", "STATE", "DEVICES", "SINCE", "LAST EVENT", "REASON"},
				row: func(u api.PushUser) []string {
					return []string{
						u.User, u.Login, u.Node, u.Source, yes(u.Permanent), u.State, strconv.Itoa(u.Devices),
						c.when(u.Since), c.when(u.LastEvent), cmp.Or(u.Reason, u.LastError),
					}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) pushDevices() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "devices [USER]",
		Short:   "List subscribed devices, and what waits to be sent to them",
		Example: "  posthorn push devices 3@1\n  posthorn push devices --json",
		Args:    operands("[USER]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := userQuery(args)
			if err != nil {
				return err
			}
			items, err := fetch[api.PushDevice](cmd.Context(), c, pushDevicesPath, q)
			if err != nil {
				return err
			}
			return table[api.PushDevice]{
				empty:  nothing(args, "No device has subscribed.", "%s has no subscribed device."),
				header: []string{"DEVICE", "USER", "CLIENT", "TRANSPORT", "TOPICS", "TARGET", "CREATED", "EXPIRES", "PENDING"},
				row: func(d api.PushDevice) []string {
					return []string{
						d.ID, d.User, d.Client, d.Transport, strings.Join(d.Topics, ","), d.Target,
						c.when(d.Created), c.when(d.Expires), c.pending(d),
					}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

// pending tells what waits to be sent to a device.
func (c *cli) pending(d api.PushDevice) string {
	switch {
	case !d.Pending:
		return "no"
	case d.Attempt == 0:
		return "yes"
	case d.NotBefore == "":
		return fmt.Sprintf("after %d failed tries", d.Attempt)
	}
	return fmt.Sprintf("after %d failed tries, next %s", d.Attempt, c.when(d.NotBefore))
}

func (c *cli) pushTest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test USER|DEVICE",
		Short: "Send a test notification and show the provider's answer",
		Long: "Send a test notification to one device, or to all devices of a user, and show what the provider\n" +
			"answered. The exit code is 1 when one of them was not delivered.",
		Example: "  posthorn push test 3@1\n  posthorn push test eac3bbc35f75301634566966 --json",
		Args:    operands("USER|DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in api.PushTest
			if strings.Contains(args[0], "@") {
				if err := checkUser(args[0], false); err != nil {
					return err
				}
				in.User = args[0]
			} else {
				in.Device = args[0]
			}
			var out api.List[api.PushTestResult]
			if err := c.ask(cmd.Context(), http.MethodPost, pushTestPath, nil, in, &out); err != nil {
				return err
			}
			err := table[api.PushTestResult]{
				empty:  fmt.Sprintf("Nothing was sent: %s has no subscribed device.", args[0]),
				header: []string{"DEVICE", "TRANSPORT", "OUTCOME", "STATUS", "REASON"},
				row: func(r api.PushTestResult) []string {
					return []string{r.Device, r.Transport, r.Outcome, status(r.Status), r.Reason}
				},
			}.print(c, out.Items)
			if err != nil {
				return err
			}
			failed := 0
			for _, r := range out.Items {
				if r.Outcome != "delivered" {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d test notifications not delivered", failed, len(out.Items))
			}
			if len(out.Items) == 0 {
				return errReported // by the table
			}
			return nil
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) pushTrace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace DEVICE",
		Short: "Show the last answers of a device's push provider, newest first",
		Long: "Show the last answers (at most 20) of a device's push provider, newest first. WAITED is the time from\n" +
			"the accepted event to the request, TOOK from the request to the provider's answer.",
		Example: "  posthorn push devices 3@1\n  posthorn push trace eac3bbc35f75301634566966",
		Args:    operands("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName("id of a device", args[0]); err != nil {
				return err
			}
			items, err := fetch[api.PushOutcome](cmd.Context(), c, pushTracePath+"/"+args[0], nil)
			if err != nil {
				return err
			}
			return table[api.PushOutcome]{
				empty:  "Nothing has been sent to this device.",
				header: []string{"AT", "VERSION", "TRY", "OUTCOME", "STATUS", "REASON", "WAITED", "TOOK", "NEXT TRY", "PROVIDER ID"},
				row: func(o api.PushOutcome) []string {
					return []string{
						c.when(o.At), strconv.FormatInt(o.Version, 10), strconv.Itoa(o.Attempt), o.Outcome, status(o.Status), o.Reason,
						between(o.Accepted, o.Sent), between(o.Sent, o.Answered), c.when(o.NextTry), o.ProviderID,
					}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

// userQuery limits a listing to the user in args, when there is one.
func userQuery(args []string) (url.Values, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if err := checkUser(args[0], false); err != nil {
		return nil, err
	}
	return url.Values{"user": {args[0]}}, nil
}

// nothing is what to say of an empty listing: of everybody, or of the one user in args.
func nothing(args []string, ofAll, ofOne string) string {
	if len(args) == 0 {
		return ofAll
	}
	return fmt.Sprintf(ofOne, args[0])
}

// status is an HTTP status, or nothing when no answer came.
func status(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
