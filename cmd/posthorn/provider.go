package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const providersPath = "/admin/v1/providers"

func (c *cli) providerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "provider", Short: "Add, change, list, show, check and remove providers: the brands that users pick from"}
	cmd.AddCommand(c.providerAdd(), c.providerSet(), c.providerList(), c.providerShow(), c.providerCheck(), c.providerRemove())
	return cmd
}

func providerPath(name string) string { return providersPath + "/" + url.PathEscape(name) }

func (c *cli) providerAdd() *cobra.Command {
	var in providerFlags
	var tests providerTests
	var noCheck bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a provider, after checks of all that its users need",
		Long: `Add a provider: a brand with its hosts, its look, its mail hosts, its sign-in and its push credentials.

The running server first checks, as phones see it: that the base URL and each host answer with a trusted
certificate and lead to this Posthorn, that the test accounts can sign in, that Apple and Google take the push
credentials, and what becomes of colour and logo. When a check fails, nothing is added, and the exit code is 1.

What flags cannot say is in a YAML or JSON file, with the names of the API; a name with _file behind it
(logo_file, key_file, certificate_file, service_account_file, vapid_key_file, client_secret_file) stands for a
file's content, beside the file that names it. Flags win over the file. Secrets are kept sealed and never shown.

The users of a provider are those of whose contexts the property "provider" names it:
posthorn property set.`,
		Example: `  posthorn provider add blue --title "Blue Mail" --colour '#1c6ea4' --logo blue.svg --host push.blue.example \
    --base-url https://push.blue.example --mailhost blue --listed --accounts test-accounts
  posthorn provider add blue --file blue.yml
  posthorn provider add blue --colour '#1c6ea4' --apns-topic example.blue.mail --apns-key-file AuthKey_ABC123DEFG.p8 \
    --apns-key-id ABC123DEFG --apns-team-id DEF123GHIJ --fcm-service-account-file firebase.json
  posthorn provider add red --colour '#e4002b' --no-check`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := in.read(cmd)
			if err != nil {
				return err
			}
			if name, ok := p["name"]; ok && name != args[0] {
				return usagef("the file is of provider %v, and %s is to be added", name, args[0])
			}
			p["name"] = args[0]
			if !noCheck {
				request, err := tests.read(c)
				if err != nil {
					return err
				}
				request["provider"] = p
				if err := c.checkProvider(cmd, args[0], request, c.json); err != nil {
					return err
				}
			}
			var out api.Provider
			if err := c.ask(cmd.Context(), http.MethodPost, providersPath, nil, p, &out); err != nil {
				return err
			}
			return c.done(out, "Provider %s added. Its users are those of contexts with: posthorn property set provider %s --context ID", printable(out.Name), printable(out.Name))
		},
	}
	in.addProviderFlags(cmd)
	tests.addTestFlags(cmd)
	cmd.Flags().BoolVar(&noCheck, "no-check", false, "add it without the checks")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) providerSet() *cobra.Command {
	var in providerFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a provider: what a flag or the file gives, and nothing else",
		Long: `Change a provider. Only what a flag or the file gives is changed. A list that is given takes the place of the one
before, but an entry of apns or fcm for the same app keeps its key when none is given. An empty value takes away what
may be missing: --logo= removes the logo. posthorn provider check shows whether all is well afterwards.`,
		Example: `  posthorn provider set blue --colour '#00549f' --logo new.svg
  posthorn provider set blue --listed=false
  posthorn provider set blue --file blue.yml`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := in.read(cmd)
			if err != nil {
				return err
			}
			if len(change) == 0 {
				return usagef("there is nothing to change: give a flag or --file")
			}
			var out api.Provider
			if err := c.ask(cmd.Context(), http.MethodPatch, providerPath(args[0]), nil, change, &out); err != nil {
				return err
			}
			return c.done(out, "Provider %s changed.", printable(out.Name))
		},
	}
	in.addProviderFlags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) providerList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the providers",
		Example: "  posthorn provider list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.Provider](cmd.Context(), c, providersPath, nil)
			if err != nil {
				return err
			}
			return table[api.Provider]{
				empty:  `There are no providers; add one with "posthorn provider add NAME --colour COLOUR".`,
				header: []string{"PROVIDER", "TITLE", "COLOUR", "HOSTS", "SIGN-IN", "CREDENTIALS", "LISTED", "RESELLER"},
				row: func(p api.Provider) []string {
					return []string{p.Name, p.Title, p.Colour, strings.Join(p.Hosts, ","), p.SignIn, providerTransports(p), yesNo(p.Listed), p.Reseller}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// providerTransports are the ways of push for which a provider has credentials of its own.
func providerTransports(p api.Provider) string {
	var all []string
	if len(p.APNs) > 0 {
		all = append(all, "apns")
	}
	if len(p.FCM) > 0 {
		all = append(all, "fcm")
	}
	for _, s := range p.Secrets {
		if s == "vapid_key" {
			all = append(all, "webpush")
		}
	}
	return strings.Join(all, ",")
}

func (c *cli) providerShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a provider, without its secrets",
		Long: `Show a provider as JSON, in the form that --file takes. Of its secrets it says which there are. The palettes that are
computed from its colour are in its branding document, /api/v1/providers/NAME on the public listener.`,
		Example: "  posthorn provider show blue",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var out api.Provider
			if err := c.ask(cmd.Context(), http.MethodGet, providerPath(args[0]), nil, nil, &out); err != nil {
				return err
			}
			return c.printJSON(out)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) providerCheck() *cobra.Command {
	var tests providerTests
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Check all that a provider's users need, and say what to do",
		Long: `Make the checks of posthorn provider add once more: certificates end, hosts move, keys are revoked. The running server
makes them, so they see what it sees. With --user, a test notification goes to that user's phone as well, by the
provider's own credentials. The exit code is 1 when a check fails.`,
		Example: `  posthorn provider check blue
  posthorn provider check blue --accounts test-accounts --user 3@1`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := tests.read(c)
			if err != nil {
				return err
			}
			return c.checkProvider(cmd, args[0], request, false)
		},
	}
	tests.addTestFlags(cmd)
	c.listFlag(cmd)
	return cmd
}

// checkProvider has the server make the checks, and prints each as it is made; as JSON all at the end, and quiet only
// when one fails.
func (c *cli) checkProvider(cmd *cobra.Command, name string, request map[string]any, quiet bool) error {
	if !c.json {
		if err := c.say("Checking provider %s as its users see it; this may take up to a minute.", printable(name)); err != nil {
			return err
		}
	}
	dir, err := c.stateDir()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
	defer cancel()
	var out api.DoctorReport
	count := map[string]int{}
	atOnce := !c.json
	err = api.Each(ctx, api.NewAdminClient(dir), http.MethodPost, providerPath(name)+"/check", request, func(part api.DoctorReport) error {
		first := out.Provider == ""
		checks := append(out.Checks, part.Checks...)
		out = part
		out.Checks = checks
		if !atOnce {
			return nil
		}
		var b strings.Builder
		if first {
			printReport(&b, part, count)
		} else {
			printChecks(&b, part.Checks, count)
		}
		_, err := fmt.Fprint(c.stdout, b.String())
		return err
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server did not answer within %s", askTimeout)
	case err != nil:
		return err
	case atOnce:
		if _, err = fmt.Fprint(c.stdout, counted(count)); err == nil && count["failed"] > 0 {
			err = errReported
		}
	case quiet && out.All():
	default:
		err = c.diagnose([]api.DoctorReport{out})
	}
	if _, adding := request["provider"]; adding && !c.json && errors.Is(err, errReported) {
		_ = c.say("Nothing is added. Do what the lines with → say, or add it all the same with --no-check.")
	}
	return err
}

func (c *cli) providerRemove() *cobra.Command {
	return c.removal("NAME", "Provider", &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a provider that no property names",
		Long: `Remove a provider, with its push credentials. Devices that subscribed with them are not told any more, until their app
subscribes again.`,
		Example: "  posthorn provider remove blue",
	}, providersPath)
}
