package main

import (
	"github.com/spf13/cobra"
)

// completionCommand takes the place of cobra's own, whose words are not ours.
func (c *cli) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete this command",
		Long: `Print the script that makes a shell (bash, zsh or fish) complete the names of commands and flags. The packages
bring it along; bash needs the package bash-completion.`,
		Example:   "  posthorn completion bash > /etc/bash_completion.d/posthorn\n  posthorn completion fish > ~/.config/fish/completions/posthorn.fish",
		Args:      operands("the shell"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(c.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(c.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(c.stdout, true)
			}
			return usagef("%q is not one of bash, zsh, fish", args[0])
		},
	}
}
