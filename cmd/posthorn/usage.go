package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// usageError is a command line that cannot be right, whatever the server says.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// strictUsage makes every mistake on the command line an error of ours. Cobra by itself answers an
// unknown subcommand or help topic with a help text and exit code 0, which a script takes for success.
func strictUsage(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.InitDefaultHelpCmd()
	root.CompletionOptions.DisableDefaultCmd = true
	// Groups can be run (below, to refuse), but their usage is "posthorn user [command]" only.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	root.SetFlagErrorFunc(flagError)
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, refuseGroup
		} else if args := cmd.Args; args != nil {
			cmd.Args = func(cmd *cobra.Command, operands []string) error {
				if err := args(cmd, operands); err != nil {
					return usagef("%s", err)
				}
				return nil
			}
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	if help, _, err := root.Find([]string{"help"}); err == nil {
		show := help.Run
		help.Args = cobra.ArbitraryArgs
		help.Run, help.RunE = nil, func(cmd *cobra.Command, topic []string) error {
			at, rest, err := root.Find(topic)
			if err == nil && len(rest) > 0 {
				err = unknownCommand(at, rest[0])
			}
			if err != nil {
				return err
			}
			show(cmd, topic)
			return nil
		}
	}
}

// refuseGroup runs when a command that only holds others is called by itself or with a name it does
// not know.
func refuseGroup(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) > 0:
		return unknownCommand(cmd, args[0])
	case !cmd.HasParent():
		return cmd.Help()
	}
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	return usagef("%q needs to be told what to do: %s", cmd.CommandPath(), strings.Join(names, ", "))
}

func unknownCommand(parent *cobra.Command, name string) error {
	if !parent.HasSubCommands() {
		return usagef("%q takes no command %q", parent.CommandPath(), name)
	}
	var names []string
	for _, sub := range parent.Commands() {
		names = append(names, sub.Name())
	}
	msg := fmt.Sprintf("unknown command %q", parent.CommandPath()+" "+name)
	if near := nearest(name, names); near != "" {
		return usagef("%s; did you mean %q?", msg, parent.CommandPath()+" "+near)
	}
	return usagef("%s; there are %s", msg, strings.Join(names, ", "))
}

func flagError(cmd *cobra.Command, err error) error {
	if operands := cmd.Flags().Args(); cmd.HasSubCommands() && len(operands) > 0 {
		// "posthorn user lst --json": the flag is unknown only because the command is.
		return unknownCommand(cmd, operands[0])
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		want := map[string]string{"bool": "true or false", "int64": "a number"}
		if kind := want[invalid.GetFlag().Value.Type()]; kind != "" {
			return usagef("--%s %s: say %s", invalid.GetFlag().Name, invalid.GetValue(), kind)
		}
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), names); near != "" {
			return usagef("%s; did you mean --%s?", err, near)
		}
	}
	return usagef("%s", err)
}

// nearest returns the name that was probably meant by word: with at most two slips, and fewer than
// word has letters.
func nearest(word string, names []string) string {
	best, limit := "", min(3, len(word))
	for _, name := range names {
		if d := config.Distance(word, name); d < limit {
			best, limit = name, d
		}
	}
	return best
}

// operands checks the number of arguments by their names; a name in brackets may be left out.
func operands(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return usagef("unexpected argument %q", args[len(names)])
		}
		if missing := slices.IndexFunc(names[len(args):], func(n string) bool { return n[0] != '[' }); missing >= 0 {
			return usagef("%s is missing", names[len(args)+missing])
		}
		return nil
	}
}

var userID = regexp.MustCompile(`^[0-9]*@[0-9]+$`)

// checkUser accepts "3@1", and "@1" where the server may choose the id.
func checkUser(s string, mayChoose bool) error {
	if !userID.MatchString(s) || (s[0] == '@' && !mayChoose) {
		return usagef(`%q is not a user: say <id>@<context>, as 3@1 ("posthorn user list" shows them)`, s)
	}
	return nil
}

// checkName refuses a name that would not stay one segment of the admin socket's paths.
func checkName(what, s string) error {
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\") || strings.ContainsFunc(s, isControl) {
		return usagef("%q cannot be the %s", s, what)
	}
	return nil
}
