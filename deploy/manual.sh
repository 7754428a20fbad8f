#!/usr/bin/env bash
# manual.sh BUILD: write BUILD/{halutd.8,halut.1,halutd.conf,halut.bash} from what the programs say of themselves.
#
# Options are written down once, in server/config.inc and in the models/cmd_*.c; this only sets them in mdoc, in a
# configuration file with every key at its default, and in a completion for bash.
set -euo pipefail

build=${1:?usage: deploy/manual.sh BUILD}
halut=$build/halut
halutd=$build/halutd
# The time of the last change, so that the same sources give the same page.
date=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}" '+%B %-d, %Y')

# mdoc takes a leading dot or quote for a request, and a backslash for an escape.
mdoc() {
  sed -e 's/\\/\\e/g' -e "s/^[.']/\\\\\&&/"
}

daemon_page() {
  cat <<END
.Dd $date
.Dt HALUTD 8
.Os
.Sh NAME
.Nm halutd
.Nd serve learned lookup-table models over HTTP
.Sh SYNOPSIS
.Nm
.Op Fl -config Ar FILE
.Op Fl -listen Ar ADDRESS
.Op Fl -models Ar DIR
.Op Ar OPTION ...
.Sh DESCRIPTION
.Nm
loads every model file (*.safetensors) of a directory and answers requests about them:
pictures are classified, matrices are multiplied with learned products.
It runs in the foreground and writes one line when it is ready.
.Sh OPTIONS
Each setting is a flag, an environment variable
.Pq Fl -body-max No is Ev HALUTD_BODY_MAX
and a key of the configuration file.
The command line wins over the environment, that over the file.
END
  "$halutd" --man
  cat <<'END'
.Sh SIGNALS
.Bl -tag -width Ds
.It Dv SIGTERM , SIGINT
Finish the requests under way, then exit with status 0.
A second one ends at once.
.It Dv SIGHUP
Read the model directory, the API keys and the certificate again.
What cannot be read stays as it was, and the log says why.
.It Dv SIGUSR1 , SIGUSR2
Log one level more, one level less.
.El
.Sh FILES
.Bl -tag -width Ds
.It Pa /etc/halutd.conf
The file that the systemd unit names: lines of
.Ql key = value ,
comments after
.Ql # .
.El
.Sh EXIT STATUS
0 after a clean end, 1 when it could not start or the daemon asked by
.Fl -health
is not healthy, 2 for a mistake in the settings.
.Sh EXAMPLES
.Dl halutd --listen 127.0.0.1:8080 --models models
.Dl curl -T cat.jpg http://127.0.0.1:8080/v1/classify
.Sh SEE ALSO
.Xr halut 1
END
}

# The names of the commands, in the order of the help.
commands() {
  "$halut" --help | sed -nE '/^Commands:/,/^$/ s/^  ([a-z]+) .*/\1/p'
}

# `halut CMD --help`: an Options section of "  -x, --name ARG   help" lines; all before it is prose.
command_section() {
  "$halut" "$1" --help | mdoc | awk -v name="$1" '
    NR == 1 { sub(/^Usage: halut /, ""); print ".Ss " $0; next }
    /^Options:/ { options = 1; print ".Bl -tag -width Ds"; next }
    !options && $0 == "" { gap = prose; next }
    !options { if (gap) print ".Pp"; gsub(/[.] +/, ".\n"); print; gap = 0; prose = 1; next }
    /^ *-/ {
      line = $0; sub(/^ +/, "", line)
      match(line, /^(-[a-zA-Z], )?--[a-z0-9-]+( [A-Z][^ ]*)?/)
      head = substr(line, 1, RLENGTH); rest = substr(line, RLENGTH + 1); sub(/^ +/, "", rest)
      n = split(head, word, " "); item = ".It"
      for (i = 1; i <= n; i++) {
        comma = sub(/,$/, "", word[i]) ? " ," : ""
        if (word[i] ~ /^-/) item = item " Fl " substr(word[i], 2) comma
        else item = item " Ar " word[i]
      }
      print item; if (rest != "") print rest; next
    }
    { sub(/^ +/, ""); if ($0 != "") print }
    END { if (options) print ".El" }'
}

tool_page() {
  cat <<END
.Dd $date
.Dt HALUT 1
.Os
.Sh NAME
.Nm halut
.Nd learn and run lookup-table models
.Sh SYNOPSIS
.Nm
.Ar COMMAND
.Op Ar OPTION ...
.Op Ar OPERAND ...
.Sh DESCRIPTION
.Nm
learns products of matrices as lookup tables, runs them and the networks made of them, and measures both.
It computes with the same code as
.Xr halutd 8 .
.Sh COMMANDS
END
  local command
  for command in $(commands); do
    if [ "$command" = serve ]; then # its help is that of the daemon, which it becomes
      printf '.Ss serve [OPTION]...\nBecome\n.Xr halutd 8 .\n'
    else
      command_section "$command"
    fi
  done
  cat <<'END'
.Sh EXIT STATUS
0 done, 1 failed, 2 wrong usage.
.Sh EXAMPLES
.Dl halut learn --a A.npy --b B.npy -C 32 -o product.safetensors
.Dl halut matmul product.safetensors a.npy -o c.npy
.Sh SEE ALSO
.Xr halutd 8
END
}

# From `halutd --help`: "  --key ARG" lines, the help below each, "(… default VALUE)" at its end.
configuration() {
  cat <<'END'
# halutd.conf: every setting of halutd, at its default. Take away the "#" before a key to change it.
# The environment (HALUTD_KEY) and the command line (--key) win over this file.
END
  "$halutd" --help | awk '
    function flush() {
      if (key == "") return
      value = text
      if (!sub(/.*default /, "", value) || !sub(/\)$/, "", value)) value = ""
      n = split(text, word, " "); line = "#"
      for (i = 1; i <= n; i++) {
        if (length(line) + 1 + length(word[i]) > 98) { print line; line = "#" }
        line = line " " word[i]
      }
      print line; print "#" key " = " (value == "" ? "\"\"" : value); print ""
      key = text = ""
    }
    /^Other$/ { flush(); exit }
    /^  --/ { flush(); key = substr($1, 3); next }
    /^        / { sub(/^ +/, ""); text = text (text == "" ? "" : " ") $0; next }
    /^[A-Z]/ { flush(); if (NR > 3) { print "\n## " $0 "\n" } }' | cat -s
}

completion() {
  echo "# bash completion for halut"
  echo "_halut() {"
  echo "  local current=\${COMP_WORDS[COMP_CWORD]} command=\${COMP_WORDS[1]-}"
  echo "  if [ \"\$COMP_CWORD\" -eq 1 ]; then"
  echo "    mapfile -t COMPREPLY < <(compgen -W \"$(commands | tr '\n' ' ')\" -- \"\$current\")"
  echo "    return"
  echo "  fi"
  echo "  case \$command in"
  local command
  for command in $(commands); do
    echo "    $command) options=\"$("$halut" "$command" --help |
      grep -oE '^ +(-[a-zA-Z], )?--[a-z0-9-]+' | grep -oE -- '--[a-z0-9-]+' | tr '\n' ' ')\" ;;"
  done
  echo "    *) options= ;;"
  echo "  esac"
  echo "  [ \"\${current#-}\" = \"\$current\" ] || mapfile -t COMPREPLY < <(compgen -W \"\$options\" -- \"\$current\")"
  echo "}"
  echo "complete -o default -F _halut halut"
}

daemon_page >"$build/halutd.8"
tool_page >"$build/halut.1"
configuration >"$build/halutd.conf"
completion >"$build/halut.bash"
