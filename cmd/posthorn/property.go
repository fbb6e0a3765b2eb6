package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const propertiesPath = "/admin/v1/properties"

func (c *cli) propertyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "property", Short: "Set what may differ from one tenant to the next"}
	cmd.AddCommand(c.propertyList(), c.propertySet(), c.propertyUnset(), c.propertyTypes())
	return cmd
}

// subjectFlags say for whom a value is.
type subjectFlags struct {
	server                              bool
	contextset, reseller, context, user string
	scope                               string
}

func (s *subjectFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.server, "server", false, "the whole server")
	f.StringVar(&s.contextset, "contextset", "", "the contexts of the context set `NAME`")
	f.StringVar(&s.reseller, "reseller", "", "the contexts of the reseller `NAME`")
	f.StringVar(&s.context, "context", "", "the users of the context `ID`")
	f.StringVar(&s.user, "user", "", "the user `ID@CONTEXT`")
}

// one returns the scope and the subject that the flags name; both are "" for none.
func (s *subjectFlags) one() (scope, subject string, err error) {
	var given []string
	for _, flag := range []struct{ scope, subject string }{
		{"contextset", s.contextset}, {"reseller", s.reseller}, {"context", s.context}, {"user", s.user},
	} {
		if flag.subject != "" {
			given = append(given, "--"+flag.scope)
			scope, subject = flag.scope, flag.subject
		}
	}
	if s.server {
		given = append(given, "--server")
		scope, subject = "server", ""
	}
	switch {
	case len(given) > 1:
		return "", "", usagef("%s: say one of them", strings.Join(given, " and "))
	case scope == "context":
		_, err = contextID(subject)
	case scope == "user":
		err = checkUser(subject, false)
	}
	return scope, subject, err
}

// scopes are what --scope takes.
var scopes = []string{"server", "contextset", "reseller", "context", "user"}

// must is one, where somebody has to be named.
func (s *subjectFlags) must() (scope, subject string, err error) {
	scope, subject, err = s.one()
	if err == nil && scope == "" {
		err = usagef("say for whom: --server, --contextset NAME, --reseller NAME, --context ID or --user ID@CONTEXT")
	}
	return scope, subject, err
}

// forWhom is a subject in a sentence.
func forWhom(scope, subject string) string { return strings.TrimSpace(scope + " " + subject) }

func (c *cli) propertySet() *cobra.Command {
	var of subjectFlags
	file := ""
	cmd := &cobra.Command{
		Use:   "set PROPERTY VALUE",
		Short: "Set a value",
		Long: "Set a value for the server, a context set, a reseller, a context or a user. The most specific value holds, at once\n" +
			"and on all nodes. At one scope, what is set here wins over what a file says. \"posthorn property types\" lists the\n" +
			"properties.",
		Example: "  posthorn property set capability.mobile_mail_app true --context 1\n" +
			"  posthorn property set push.privacy sender --user 3@1\n" +
			"  posthorn property set push.allowed_clients \"mail-app*, web\" --server",
		Args: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return operands("PROPERTY")(cmd, args)
			}
			return operands("PROPERTY", "VALUE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, subject, err := of.must()
			if err != nil {
				return err
			}
			in := api.PropertyValue{Scope: scope, Subject: subject, Property: args[0]}
			if file == "" {
				in.Value = args[1]
			} else if in.Value, err = c.readSecret(file); err != nil {
				return err
			}
			if err := c.ask(cmd.Context(), http.MethodPut, propertiesPath, nil, in, nil); err != nil {
				return err
			}
			if file != "" {
				in.Value = ""
			}
			return c.done(in, "%s is set for %s.", printable(args[0]), printable(forWhom(scope, subject)))
		},
	}
	of.add(cmd)
	cmd.Flags().StringVar(&file, "value-file", "", "read the value from `FILE`, or from stdin for -, instead of giving it as VALUE")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) propertyUnset() *cobra.Command {
	var of subjectFlags
	cmd := &cobra.Command{
		Use:   "unset PROPERTY",
		Short: "Take away a value that was set by command or API",
		Long: "Take away a value that was set by command or API. Then the next less specific one holds, which is not the same as\n" +
			"false. A value in a file is removed there.",
		Example: "  posthorn property unset push.privacy --user 3@1",
		Args:    operands("PROPERTY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, subject, err := of.must()
			if err != nil {
				return err
			}
			q := url.Values{"scope": {scope}, "subject": {subject}, "property": {args[0]}}
			if err := c.ask(cmd.Context(), http.MethodDelete, propertiesPath, q, nil, nil); err != nil {
				return err
			}
			return c.done(removed{args[0]}, "%s is not set for %s any more.", printable(args[0]), printable(forWhom(scope, subject)))
		},
	}
	of.add(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) propertyList() *cobra.Command {
	var of subjectFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the values that are set, and where",
		Long:    "List the values that are set in files, by command or by API. Secrets are not shown.",
		Example: "  posthorn property list\n  posthorn property list --scope context\n  posthorn property list --user 3@1 --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			scope, subject, err := of.one()
			if err != nil {
				return err
			}
			if of.scope != "" && !slices.Contains(scopes, of.scope) {
				return usagef("--scope: %q is none of %s", of.scope, strings.Join(scopes, ", "))
			}
			q := url.Values{}
			if scope != "" {
				q = url.Values{"scope": {scope}, "subject": {subject}}
			}
			items, err := fetch[api.PropertyValue](cmd.Context(), c, propertiesPath, q)
			if err != nil {
				return err
			}
			shown := items[:0]
			for _, v := range items {
				if of.scope == "" || v.Scope == of.scope {
					shown = append(shown, v)
				}
			}
			return table[api.PropertyValue]{
				empty:  `Nothing is set: all properties have their defaults, which "posthorn property types" lists.`,
				header: []string{"SCOPE", "SUBJECT", "PROPERTY", "VALUE", "WHERE"},
				row: func(v api.PropertyValue) []string {
					return []string{v.Scope, v.Subject, v.Property, v.Value, v.Origin}
				},
			}.print(c, shown)
		},
	}
	of.add(cmd)
	cmd.Flags().StringVar(&of.scope, "scope", "", "only values of this `SCOPE`: server, contextset, reseller, context or user")
	c.listFlag(cmd)
	return cmd
}

func (c *cli) propertyTypes() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "types",
		Short:   "List the properties that there are",
		Long:    "List the properties that there are: type, default, where each may be set, and what it does.",
		Example: "  posthorn property types",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.PropertyType](cmd.Context(), c, propertiesPath+"/types", nil)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(items)
			}
			for i, t := range items {
				if i > 0 {
					_, _ = fmt.Fprintln(c.stdout) // errors come back from the last write
				}
				kind := t.Type
				switch {
				case t.One != nil:
					kind = strings.Join(t.One, "|")
				case t.Min != "":
					kind += " from " + t.Min + " to " + t.Max
				}
				where := strings.Join(t.Scopes, ", ")
				if t.Protected {
					where += "; by the operator only"
				}
				value := t.Default
				if value == "" {
					value = "empty"
				}
				if _, err := fmt.Fprintf(c.stdout, "%s (%s)\n  default %s; set at %s\n  %s\n", t.Name, kind, value, where, t.Doc); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) configExplain() *cobra.Command {
	user, inContext := "", ""
	cmd := &cobra.Command{
		Use:   "explain PROPERTY",
		Short: "Say which value of a property holds for somebody, and why",
		Long: "Say which value of a property holds for a user, for a context, or, without either, for the whole server: the value,\n" +
			"where it is set, and each place that was passed over, from the most to the least specific. A server must be running.",
		Example: "  posthorn config explain capability.mobile_mail_app --user 3@1\n" +
			"  posthorn config explain push.privacy --context 1 --json",
		Args: operands("PROPERTY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			whom := "the server"
			switch {
			case user != "" && inContext != "":
				return usagef("--user and --context: say one of them")
			case user != "":
				if err := checkUser(user, false); err != nil {
					return err
				}
				q.Set("user", user)
				whom = "user " + user
			case inContext != "":
				id, err := contextID(inContext)
				if err != nil {
					return err
				}
				q.Set("context", strconv.FormatInt(id, 10))
				whom = "context " + inContext
			}
			var e api.PropertyExplanation
			if err := c.ask(cmd.Context(), http.MethodGet, propertiesPath+"/explain/"+url.PathEscape(args[0]), q, nil, &e); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(e)
			}
			return c.printPropertyExplanation(e, whom)
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "what holds for the user `ID@CONTEXT`")
	cmd.Flags().StringVar(&inContext, "context", "", "what holds for the context `ID`")
	c.jsonFlag(cmd)
	return cmd
}

// printPropertyExplanation writes the verdict, and a line for each step.
func (c *cli) printPropertyExplanation(e api.PropertyExplanation, whom string) error {
	value := func(s string) string {
		if s == "" {
			return "(empty)"
		}
		return s
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s = %s for %s\n", printable(e.Property), printable(value(e.Value)), printable(whom))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range e.Steps {
		mark, set := " ", "-"
		if s.State == "wins" {
			mark = ">"
		}
		if s.Value != nil {
			set = value(*s.Value)
		}
		why := s.Origin
		if s.Reason != "" {
			why = strings.TrimPrefix(why+"; "+s.Reason, "; ")
		}
		_, _ = fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\n", mark, printable(forWhom(s.Scope, s.Subject)), printable(set), s.State, printable(why))
	}
	_ = w.Flush() // to memory
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(c.stdout, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
