#include "user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int halut_user_find(const char *name, struct halut_user *out, struct halut_diag *diag) {
  struct passwd entry, *found = NULL;
  char text[4096];
  int error = getpwnam_r(name, &entry, text, sizeof text, &found);
  if (found == NULL)
    return halut_fail(diag, HALUT_ENOTFOUND, 0, "no user named \"%.64s\"%s%s", name,
                      error != 0 ? ": " : "", error != 0 ? strerror(error) : "");
  if (found->pw_uid == 0)
    return halut_fail(diag, HALUT_EINVALID, 0, "\"%.64s\" is root", name);
  if (geteuid() != 0 && geteuid() != found->pw_uid)
    return halut_fail(diag, HALUT_EINVALID, 0, "only root can become \"%.64s\"", name);
  snprintf(out->name, sizeof out->name, "%s", found->pw_name);
  out->uid = found->pw_uid;
  out->gid = found->pw_gid;
  return HALUT_OK;
}

int halut_user_become(const struct halut_user *user, struct halut_diag *diag) {
  if (geteuid() == 0) {
    /* Groups first: without root they cannot be given up any more. */
    if (initgroups(user->name, user->gid) != 0 || setgid(user->gid) != 0 || setuid(user->uid) != 0)
      return halut_fail(diag, HALUT_EIO, 0, "cannot become %s: %s", user->name, strerror(errno));
    if (setuid(0) == 0 || geteuid() != user->uid || getegid() != user->gid)
      return halut_fail(diag, HALUT_EIO, 0, "became %s, but not for good", user->name);
  }
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return HALUT_OK;
}
