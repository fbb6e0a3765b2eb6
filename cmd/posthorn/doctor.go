package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const doctorPath = "/admin/v1/doctor"

func (c *cli) doctorCommand() *cobra.Command {
	var (
		in           api.Doctor
		passwordFile string
	)
	cmd := &cobra.Command{
		Use:   "doctor [MAILHOST]...",
		Short: "Check the server and its mail hosts from end to end, and say what to do",
		Long: `Check what new mail needs on its way to a phone: the server's own machine and credentials, and each mail
host from its name to a sign-in. The running server makes the checks, so they see what it sees. The exit code
is 1 when one fails.

With one mail host and a sign-in more is seen: what the server offers, whether METADATA can really be written
(with an entry of our own, which is removed again), and with --deliver-lmtp or --deliver-smtp how long a test
mail takes until it is known here. The test mail stays in the INBOX.`,
		Example: `  posthorn doctor
  posthorn doctor main --login alice@example.org --password-file -
  posthorn doctor --user 3@1 --deliver-lmtp 192.0.2.1:24
  posthorn doctor main --notify-url http://posthorn.example.org:8009/preliminary/http-notify/v1/notify`,
		Args: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			in.MailHosts = args
			if err := checkDoctor(in, passwordFile); err != nil {
				return err
			}
			if passwordFile != "" {
				var err error
				if in.Password, err = c.readSecret(passwordFile); err != nil {
					return err
				}
			}
			var out api.List[api.DoctorReport]
			if err := c.ask(cmd.Context(), http.MethodPost, doctorPath, nil, in, &out); err != nil {
				return err
			}
			return c.diagnose(out.Items)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Login, "login", "", "sign in at the mail host as `LOGIN`")
	f.StringVar(&passwordFile, "password-file", "", "`FILE` with the password for --login (- is standard input)")
	f.StringVar(&in.User, "user", "", "sign in as `USER`, with what the server has for him")
	f.StringVar(&in.NotifyURL, "notify-url", "", "try the `URL` that the mail server calls; without LOGIN:PASSWORD in it the installation's are used")
	f.StringVar(&in.DeliverLMTP, "deliver-lmtp", "", "deliver a test mail over LMTP to `HOST:PORT`, and see how long it takes")
	f.StringVar(&in.DeliverSMTP, "deliver-smtp", "", "the same over SMTP")
	f.StringVar(&in.DeliverTo, "deliver-to", "", "`ADDRESS` of the test mail (default the login)")
	c.listFlag(cmd)
	return cmd
}

// checkDoctor refuses what cannot be right on the command line.
func checkDoctor(in api.Doctor, passwordFile string) error {
	if i := slices.IndexFunc(in.MailHosts, func(name string) bool { return checkName("name of a mail host", name) != nil }); i >= 0 {
		return checkName("name of a mail host", in.MailHosts[i])
	}
	deliver := in.DeliverLMTP + in.DeliverSMTP
	switch {
	case in.User != "" && checkUser(in.User, false) != nil:
		return checkUser(in.User, false)
	case in.Login != "" && in.User != "":
		return usagef("--login and --user: say one of them")
	case (in.Login == "") != (passwordFile == ""):
		return usagef("--login and --password-file belong together")
	case in.DeliverLMTP != "" && in.DeliverSMTP != "":
		return usagef("--deliver-lmtp and --deliver-smtp: say one of them")
	case deliver == "" && in.DeliverTo != "":
		return usagef("--deliver-to needs --deliver-lmtp or --deliver-smtp")
	case deliver != "" && in.Login == "" && in.User == "":
		return usagef("a test mail is looked for in a mailbox: say whose, with --login or --user")
	}
	if deliver != "" {
		if _, err := withPort(deliver, ""); err != nil || !strings.Contains(deliver, ":") {
			return usagef("%s: say HOST:PORT", deliver)
		}
	}
	return nil
}

// marks are what a line begins with, by the check's state.
var marks = map[string]string{"ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}

// diagnose prints the reports, and fails when a check has.
func (c *cli) diagnose(reports []api.DoctorReport) error {
	count := map[string]int{}
	var b strings.Builder
	for _, r := range reports {
		printReport(&b, r, count)
	}
	if c.json {
		if err := c.printJSON(reports); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(c.stdout, b.String(), counted(count)); err != nil {
		return err
	}
	if count["failed"] > 0 {
		return errReported
	}
	return nil
}

// printReport writes a report with its heading, and counts the states.
func printReport(b *strings.Builder, r api.DoctorReport, count map[string]int) {
	switch {
	case r.Provider != "":
		fmt.Fprintf(b, "Provider %s (%s)\n", printable(r.Provider), printable(r.Address))
	case r.MailHost == "":
		fmt.Fprintf(b, "Server %s\n", printable(r.Address))
	default:
		fmt.Fprintf(b, "\nMail host %s (%s)\n", printable(r.MailHost), printable(r.Address))
	}
	printChecks(b, r.Checks, count)
}

func printChecks(b *strings.Builder, checks []api.DoctorCheck, count map[string]int) {
	for _, check := range checks {
		count[string(check.State)]++
		fmt.Fprintf(b, "  %s %-20s %s\n", marks[string(check.State)], strings.ReplaceAll(check.Name, "_", " "), printable(check.Detail))
		if check.Do != "" {
			fmt.Fprintf(b, "  %22s → %s\n", "", printable(check.Do))
		}
	}
}

// counted is the last line.
func counted(count map[string]int) string {
	return fmt.Sprintf("\nFailed: %d. Warnings: %d. Well: %d.\n", count["failed"], count["warning"], count["ok"])
}
