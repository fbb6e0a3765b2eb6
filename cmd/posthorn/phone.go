package main

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/demo"
)

func (c *cli) pushPhone() *cobra.Command {
	var passwordFile, caFile string
	in := demo.PhoneConfig{}
	cmd := &cobra.Command{
		Use:   "phone LOGIN",
		Short: "Be a phone: sign in as a user, and print the notifications that arrive",
		Long: `Be a phone, for an operator who has none with the app at hand. It signs in at the server as the app does, subscribes
to new mail, and prints each notification as it arrives, decrypted: all of the way from the mail server, but for Apple,
Google or the browser's push service, whose place it takes. In the end it signs out.

The server must be allowed to send to this machine: outbound.allow: ["http://` + demo.DefaultPhoneAddr + `"]. Remove that
afterwards, since every user could then have it send requests there.`,
		Example: "  posthorn push phone alice@example.org --password-file -",
		Args:    operands("the login"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if passwordFile == "" {
				return usagef("--password-file is missing: a file with the password of %s, or - for standard input", args[0])
			}
			if u, err := url.Parse(in.Server); in.Server != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
				return usagef("--server %s: say https:// or http://, and a host", in.Server)
			}
			if in.Password, err = c.readSecret(passwordFile); err != nil {
				return err
			}
			if caFile != "" {
				raw, err := os.ReadFile(caFile) //nolint:gosec // the operator names it
				if err != nil {
					return err
				}
				if in.Roots = x509.NewCertPool(); !in.Roots.AppendCertsFromPEM(raw) {
					return fmt.Errorf("%s holds no PEM certificate", caFile)
				}
			}
			if in.Server == "" {
				cfg, err := c.loadConfig()
				if err != nil {
					return err
				}
				in.Server = cmp.Or(cfg.Public.URL, "http://"+cfg.Public.Listen)
			}
			in.Login, in.Out = args[0], c.stdout
			return demo.Phone(cmd.Context(), in)
		},
	}
	f := cmd.Flags()
	f.StringVar(&passwordFile, "password-file", "", "`FILE` with the user's mail password (- is standard input)")
	f.StringVar(&in.Server, "server", "", "`URL` at which devices reach the server (default public.url, else public.listen)")
	f.StringVar(&caFile, "ca", "", "`FILE` with the authorities to trust there (PEM), instead of the system's")
	f.StringVar(&in.Client, "client", "posthorn-app", "what the phone calls its app: `NAME`")
	f.StringVar(&in.Addr, "addr", demo.DefaultPhoneAddr, "`HOST:PORT` of the phone's push service, on this machine")
	f.IntVar(&in.Count, "count", 0, "end after `N` notifications (default: never)")
	return cmd
}
