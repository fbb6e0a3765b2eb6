package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

const defaultConfigFile = "/etc/posthorn/posthorn.yml"

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show, explain and import the configuration"}
	cmd.AddCommand(c.configCheck(), c.configShow(), c.configExplain(), c.configImport())
	return cmd
}

func (c *cli) configCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with the configuration",
		Long: "Say everything that is wrong with the configuration: key, line and what to do. Keys and certificates are\n" +
			"opened. No server is needed, and nothing is changed. The exit code is 1 when \"posthorn serve\" would not start, or\n" +
			"would start without an app because its certificate has expired. One that soon does is a warning.",
		Example: "  posthorn config check\n  posthorn --config ./posthorn.yml config check",
		Args:    operands(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.readConfig()
			var problems config.Problems
			switch {
			case err == nil:
				var soon config.Warnings
				problems, soon = server.Check(cfg)
				c.warn(soon)
			case !errors.As(err, &problems):
				return err
			case cfg != nil: // what does not hang on the keys that are wrong is judged all the same
				problems = server.CheckRules(cfg, problems)
			}
			if c.json {
				if err := c.printJSON(append(config.Problems{}, problems...)); err != nil {
					return err
				}
			}
			switch {
			case len(problems) > 0 && c.json:
				return errReported
			case len(problems) > 0:
				return problems
			case c.json:
				return nil
			}
			file, _ := c.configPath()
			if file == "" {
				file = "no file, all defaults"
			}
			_, err = fmt.Fprintf(c.stdout, "The configuration is good (%s).\n", file)
			return err
		},
	}
	cmd.Flags().BoolVar(&c.json, "json", false, "print the problems as one JSON array")
	return cmd
}

func (c *cli) configShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show every key with the value in force and where it came from",
		Long:    "Show every key with the value in force, defaults included, and where it came from. Secrets are not shown.",
		Example: "  posthorn config show\n  posthorn config show --json",
		Args:    operands(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.loadConfig()
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(cfg.Settings())
			}
			out, err := cfg.RedactedYAML()
			if err != nil {
				return err
			}
			if dir, _ := c.namedStateDir(); dir != "" {
				_ = c.say("posthorn: state_dir is what --state-dir or POSTHORN_STATE_DIR says, not what the configuration says")
			}
			_, err = c.stdout.Write(out)
			return err
		},
	}
	c.listFlag(cmd)
	return cmd
}

// configPath is the file in force, "" for none.
func (c *cli) configPath() (string, error) {
	if c.configFile != "" {
		return c.configFile, nil
	}
	if file := c.env["POSTHORN_CONFIG"]; file != "" {
		return file, nil
	}
	_, err := os.Stat(defaultConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return defaultConfigFile, err
}

// namedStateDir is the state directory that the command line or the environment names, if any.
func (c *cli) namedStateDir() (string, error) {
	dir := c.stateDirFlag
	if dir == "" {
		dir = c.env["POSTHORN_STATE_DIR"]
	}
	if dir == "" {
		return "", nil
	}
	return filepath.Abs(dir)
}

// stateDir is where to look for the admin socket. A named directory needs no configuration: one that
// is broken, or that this user may not read, is then no obstacle to asking the server.
func (c *cli) stateDir() (string, error) {
	if dir, err := c.namedStateDir(); dir != "" || err != nil {
		return dir, err
	}
	cfg, err := c.askingConfig()
	if err != nil {
		return "", err
	}
	return cfg.StateDir, nil
}

// askingConfig is the configuration for a command that asks the server. That this user may not read the file of a
// secret is no obstacle: the server has it.
func (c *cli) askingConfig() (*config.Config, error) {
	cfg, err := c.readConfig()
	var problems config.Problems
	if cfg != nil && errors.As(err, &problems) && !slices.ContainsFunc(problems, func(p config.Problem) bool { return !p.Denied }) {
		return cfg, nil
	}
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

func (c *cli) warn(warnings config.Warnings) {
	for _, w := range warnings {
		_ = c.say("posthorn: warning: %s", printable(w.String()))
	}
}

// loadConfig reads and checks the configuration in force. Warnings go to stderr.
func (c *cli) loadConfig() (*config.Config, error) {
	cfg, err := c.readConfig()
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// readConfig is loadConfig that returns with config.Problems what could be read; nil when that is nothing.
func (c *cli) readConfig() (*config.Config, error) {
	file, err := c.configPath()
	if err != nil {
		return nil, fmt.Errorf("find the configuration: %w", err)
	}
	dir, err := c.namedStateDir()
	if err != nil {
		return nil, err
	}
	cfg, warnings, err := config.Load(file, func(name string) (string, bool) {
		if dir != "" && name == "STATE_DIRECTORY" {
			return dir, true // spares the search for a default, which can fail
		}
		value, ok := c.env[name]
		return value, ok
	})
	if !c.warned {
		c.warn(warnings)
		c.warned = true
	}
	if cfg != nil && dir != "" {
		cfg.StateDir = dir
	}
	if err != nil {
		return cfg, err
	}
	if problems := cfg.Check(); len(problems) > 0 {
		return cfg, problems
	}
	return cfg, nil
}
