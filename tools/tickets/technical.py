"""Situations of the technical queues, and those that could go to any of them. No logic.

A topic opens with `# tags | things | what a reply asks for`. Its lines are one sentence each: `i` something broke now, `p` it
comes back or its cause is wanted, `r` something is wanted, `c` something set up or planned is to be altered; `ip` and `rc` leave
open which of two it is. {x} is one thing.
"""

from __future__ import annotations

TECHNICAL_SUPPORT = """
# Integration, API | order sync; customer API; webhook relay; calendar connector; payment callback; inventory feed; import endpoint; partner gateway | the request id and the response body; the time of the last good call; the endpoint and the client version
i: The {x} stopped answering at {time} and every call now ends with {code}.
i: Since the release this morning our {x} rejects valid tokens with {code}.
i: No record has come through the {x} since {time} and the queue is growing.
i: Half of the messages sent by the {x} arrive empty, the rest fail with {code}.
i: The {x} returns {code} on every request from our {city} servers.
p: The {x} drops its connection every few hours and we cannot see why.
p: Again and again the {x} writes the same record twice, always under load.
p: We keep patching the {x} after timeouts and want the root cause found.
r: Could you send us the documentation for connecting the {x} to a warehouse system?
r: We would like an example of how the {x} signs its requests.
r: Is there a test account for the {x} that our developers in {city} may use?
r: Please tell us how many calls per minute the {x} allows.
c: Please raise the rate limit of the {x} from {n} to {n} calls a second.
c: We want the {x} moved from version {version} to version {version}.
c: Please point the {x} at our new address in the {city} data centre.
# Database, Performance | customer database; reporting cluster; search index; order table; read replica; session store; event log; product catalogue database | the slow query and its plan; the cluster name and the time window; the size of the largest table
i: The {x} went read-only at {time} and no write gets through.
i: Queries on the {x} that took a second now run into {code} after a minute.
i: The {x} will not start after the power cut, the log ends with {code}.
i: We lost the connection to the {x} and the application shows {code}.
i: A migration broke off halfway and left the {x} locked.
p: The {x} slows down every {day} and recovers only when it is restarted.
p: Deadlocks in the {x} return week after week in spite of the new indexes.
p: Memory use of the {x} creeps up until it crashes, for the {nth} time this month.
r: Can you advise us which index the {x} needs for searches by date?
r: We need a copy of the {x} with the personal data masked for our test team.
r: Please explain how to export {n} million rows from the {x} without a lock.
r: Could someone review the sizing of the {x} before we add {n} new stores?
c: Please change the maintenance window of the {x} from {day} to {day} night.
c: We ask you to enlarge the {x} from {n} to {n} gigabytes of memory.
c: Please switch the {x} to daily snapshots kept for {n} days.
# Server, IT | web server; application node; load balancer; build server; virtual machine in {city}; staging host; message broker; mail relay | the host name and the last log lines; the time it last worked and what was deployed; the output of the health check
i: Our {x} is down since {time} and does not come back after a reboot.
i: The {x} answers with {code} to about every second visitor.
i: The disk of the {x} is full and all services on it have stopped.
i: The {x} lost its certificate overnight, browsers now refuse to connect.
i: After the kernel patch the {x} hangs at boot with {code}.
p: The {x} restarts by itself two or three times a week with nothing in the log.
p: Every month end the {x} runs out of threads and nobody knows the reason.
p: Processor load on the {x} jumps to full each night, this has gone on since {month}.
r: Could we get a second {x} for our load tests in {month}?
r: Please grant {n} engineers of the {team} team shell access to the {x}.
r: We would like the patch history of the {x} for the past {n} months.
r: What are the recommended limits for open files on the {x}?
c: Please move the {x} from {city} to the data centre in {city}.
c: We want the {x} upgraded to {n} cores during the next window.
c: Please replace the certificate of the {x} and renew it every {n} days from now on.
# Network, Disruption | site-to-site tunnel; firewall in {city}; office router; DNS zone; proxy; fibre link to {city}; guest network; branch switch | a trace from both ends; the device model and firmware version; the addresses that cannot be reached
i: The {x} has been dropping packets since {time} and calls break off.
i: We cannot reach anything behind the {x}, pings end with {code}.
i: After the firmware update the {x} blocks all outgoing traffic.
i: The {x} went dark at {time} and {city} is cut off.
i: Names no longer resolve through the {x} and applications show {code}.
p: The {x} loses its route about once a day, always for {n} minutes.
p: Latency over the {x} climbs every afternoon and three tickets have not cured it.
p: The {x} flaps again and again when it rains, please find out why.
r: Can you tell us which ports the {x} must leave open for the {team} system?
r: We need a diagram of the {x} for an audit by the {team} department.
r: Could you give the new office in {city} access through the {x}?
r: Please advise on a backup path for the {x}.
c: Please allow the range of our {city} office through the {x}.
c: We are changing provider and need the {x} rerouted on {day}.
c: Please widen the {x} from {n} to {n} megabits.
# Security, Access | single sign-on; access token service; audit log; encryption key; intrusion alarm; patient record vault; permission matrix; malware scanner | the account names and the time of the event; the alert text and the source address; the identity provider and its certificate date
i: Someone signed in from an unknown country through the {x} at {time}.
i: The {x} refuses every user of the {team} team with {code}.
i: We found that files guarded by the {x} were readable from outside.
i: The {x} raised {n} alarms within an hour and then went silent.
i: Nobody can authenticate, the {x} answers {code} since the key rotation.
p: The {x} locks out the same {n} people every week without a wrong password.
p: Time and again the {x} reports a breach that turns out to be false.
p: Permissions set through the {x} keep reverting, we need the underlying cause.
r: Please share best practices for protecting medical records with the {x}.
r: We would like a security report covering the {x} for our board.
r: Could you confirm which encryption the {x} uses at rest?
r: How long does the {x} keep its entries, and may we download them?
c: Please make two-factor login mandatory in the {x} for the {team} team.
c: We want the {x} to expire sessions after {n} minutes instead of {n}.
c: Please add the {city} office to the {x} and remove {city}.
# Backup, Data | nightly backup; archive volume; file share; restore job; snapshot chain; document store; tape library; replication to {city} | the job id and its log; the name and date of the missing files; the free space on the target
i: The {x} failed at {time} with {code} and nothing was saved.
i: Folders of the {team} team vanished from the {x} this morning.
i: A restore from the {x} stops at {n} percent with {code}.
i: The {x} is corrupt and the checksum test fails on {n} files.
i: Our {x} shows zero bytes free and refuses new data.
p: The {x} is incomplete every {day}, this is the {nth} time.
p: We see the {x} fall behind week after week and want to know the reason.
p: Files keep disappearing from the {x}, a lasting fix is needed.
r: Could you restore one folder from the {x} as it was in {month}?
r: How do we verify that the {x} can really be restored?
r: Please send the {team} team a list of what the {x} covers.
r: We would like a quote of the space our {x} takes per month.
c: Please run the {x} at {time} instead of {time}.
c: We want the {x} to keep {n} versions rather than {n}.
c: Please take the {city} share out of the {x} and add the one in {city}.
# Analytics, Data | sales dashboard; campaign report; data pipeline; forecast model; nightly import; statistics export; investment portfolio model; visitor counter | the report name and the period; the figures expected and the figures shown; the job log and the source file
i: The {x} shows zeros for {month} although the data arrived.
i: Our {x} stopped at {time} with {code} and no figures came out.
i: The {x} counts every sale twice since yesterday.
i: Loading the {x} ends with {code} for everyone in {team}.
i: The {x} mixes up {city} and {city} since the update to {version}.
p: Totals in the {x} drift from the source each week, we correct them by hand.
p: The {x} breaks whenever a file has more than {n} columns, over and over.
p: Nobody can explain why the {x} is late every {day} morning.
r: Could you show the {team} team how to filter the {x} by region?
r: We would like to add marketing channels to the {x}, is that possible?
r: Please advise how the {x} can improve our campaign efficiency.
r: Can the {x} be exported as a spreadsheet every {day}?
c: Please schedule the {x} for {time} instead of {time}.
c: We want the {x} to use the new cost centres from {month}.
c: Please switch the {x} from weekly to monthly totals.
# Deployment, Update | release pipeline; update to {version}; container image; feature branch build; rollout in {city}; plugin loader; configuration file; dependency scanner | the build number and its log; the version before and after; the steps that lead to the fault
i: The {x} aborted at {time} with {code} and left half the nodes behind.
i: After the {x} the application crashes at start with {code}.
i: The {x} overwrote our settings and logins fail now.
i: The {x} has hung at {n} percent for hours.
i: The {x} ships the wrong library and the service will not load.
p: The {x} fails at random about one time in {n}, retrying hides it.
p: Each {x} brings back a fault that was fixed before, please trace it.
p: We roll back the {x} almost every sprint and need to learn what causes it.
r: Can you provide release notes for the {x}?
r: Is there a way to try the {x} on one machine first?
r: We need guidance on a rollback plan for the {x}.
r: Please tell the {team} team which systems the {x} supports.
c: Please postpone the {x} from {day} to {day}.
c: We want the {x} limited to {n} percent of users first.
c: Please turn off automatic restarts in the {x}.
"""

PRODUCT_SUPPORT = """
# Feature, Mobile | mobile app; tablet edition; offline mode; barcode reader; photo upload; push message; home screen widget; map view | the phone model and app version; a screenshot of the message; the steps up to the fault
i: The {x} closes by itself as soon as I open a project.
i: Since version {version} the {x} shows a blank page.
i: The {x} froze at {time} and my entries are gone.
i: I get {code} whenever I tap save in the {x}.
i: The {x} stopped responding on all our phones today.
p: The {x} forgets my settings after every update, it never stays fixed.
p: For weeks the {x} has drained the battery, what lies behind it?
p: The {x} logs people out at random, several times a week.
r: How do I share a project through the {x} with {n} colleagues?
r: Does the {x} support a second language?
r: Please explain what the new icons in the {x} mean.
r: I would love a dark theme for the {x}, is one planned?
c: Please enable the {x} for our {team} accounts.
c: We want to switch the {x} from the free to the team edition.
c: Please change the default view of the {x} to the list.
# Hardware, Product | label printer; smart thermostat; document scanner; conference camera; noise-cancelling headset; wireless router model {model}; card terminal; docking station | the serial number and the colour of the light; the firmware version shown in the menu; a short video of the fault
i: The {x} does not switch on any more, the light blinks {n} times.
i: My {x} went dead in the middle of a meeting with {code} on its display.
i: Since the last firmware the {x} is not found by the computer.
i: The {x} overheats within {n} minutes and shuts itself off.
i: The {x} prints {code} and makes a grinding noise.
p: Our {x} loses its pairing almost daily, whatever we reset.
p: The {nth} replacement {x} shows the very same defect, there must be a common cause.
p: The {x} works for some days and then fails again, always like that.
r: Which accessories fit the {x} model {model}?
r: Could you send me the manual of the {x}?
r: How is the {x} connected to two computers at once?
r: I would like to know the range of the {x} in an open office.
c: Please set our {n} units of the {x} to the European profile.
c: We want the warranty of the {x} moved to our {city} branch.
c: Please downgrade the {x} to firmware {version}.
# Documentation, Training | project board; time sheet module; template editor; task planner; approval workflow; shared workspace; form builder; comment thread | the name of the workspace and your role; the step where you are stuck; how many people would use it
i: The {x} shows tasks of another team since this morning.
i: I cannot open the {x}, it answers {code}.
i: Everything entered into the {x} after {time} was not saved.
i: The buttons of the {x} do nothing since the update to {version}.
i: The {x} duplicates each card I move.
p: Due dates in the {x} shift by a day each time, a known pattern for us.
p: The {x} sends the same reminder over and over, nobody finds the reason.
p: Every quarter the {x} loses its custom fields again.
r: Could you arrange a training on the {x} for {n} people in {team}?
r: Is there a guide that shows how to archive the {x}?
r: Please describe how rights are inherited in the {x}.
r: Can the {x} be linked with a calendar?
c: Please rename the {x} of our {team} team and keep its history.
c: We want the {x} to require two approvals instead of one.
c: Please switch the {x} to the working hours of {city}.
# Import, Software | spreadsheet import; file converter; PDF export; contact list; drawing viewer; language pack; translation memory; plug-in for text editors | a sample file; the format and the size of the file; your operating system and edition
i: The {x} stops at row {n} with {code}.
i: Files from the {x} come out garbled since yesterday.
i: The {x} cannot be opened on the new system, it just says {code}.
i: The {x} swallowed {n} entries without a word.
i: My {x} crashes with files above {n} megabytes since {version}.
p: The {x} mangles accents every single time, support has closed this twice.
p: With each edition the {x} breaks older files, what is the root of this?
p: The {x} works for some users and never for others, and it has been so since {month}.
r: Which formats does the {x} accept?
r: Could you tell me how to map columns in the {x}?
r: We need the {x} for a system from {month}, will it run?
r: Is a command-line version of the {x} available?
c: Please change the {x} to use semicolons for our {city} office.
c: We want the {x} to write dates as day and month.
c: Please set the size limit of the {x} from {n} to {n} megabytes.
# Setup, License | license key; trial edition; installer; activation code; home edition; classroom pack; floating seat; product registration | the first digits of the key; the edition and the number of seats; the message shown by the installer
i: The {x} is refused with {code} although it was bought on {day}.
i: The {x} breaks off at {n} percent and rolls everything back.
i: My {x} turned invalid overnight and the program locks me out.
i: Registering the {x} ends on an error page since {time}.
i: The {x} says it is in use while nobody works with it.
p: The {x} has to be entered again every month, why does it not stay?
p: After each restart the {x} is lost, this happens on {n} machines.
p: We keep running into seat errors with the {x}, always on {day}.
r: May I use one {x} on a desktop and a laptop?
r: Please send me the {x} for {n} more seats.
r: How can I see when our {x} runs out?
r: Is the {x} good for a school with {n} pupils?
c: Please move my {x} to a new computer.
c: We want to turn the {x} into a subscription for {n} users.
c: Please reassign the {x} of a former colleague to {team}.
# Audio, Feature | video call; webinar room; screen sharing; recording; live caption; breakout room; whiteboard; meeting link | the meeting number and the time; the browser and the headset used; a recording of the fault
i: Nobody hears the others in the {x} since {time}.
i: The {x} drops all guests after {n} minutes with {code}.
i: The {x} shows only a black picture today.
i: I cannot start the {x}, the button is grey since {version}.
i: The {x} lags so badly that we gave up.
p: Echo in the {x} comes back in each meeting, we have changed every device.
p: The {x} cuts off regularly at the half hour, please look into the pattern.
p: Sound and picture of the {x} drift apart every time, for months now.
r: How many guests may join a {x}?
r: Could you explain how the {x} is translated live?
r: I want to store a {x} for colleagues in {city}, what do you suggest?
r: Does the {x} work without an account?
c: Please let only hosts start the {x} from now on.
c: We want the {x} limit raised from {n} to {n} guests.
c: Please turn off the {x} by default for {team}.
"""

IT_SUPPORT = """
# Account, Access | staff account; shared mailbox; directory entry; password vault; badge system; remote desktop; intranet page; group drive | the user name and the department; the manager who approves it; the exact sign-in message
i: My {x} is locked since {time} and shows {code}.
i: The {team} team lost access to the {x} this morning.
i: I cannot sign in to the {x} after changing my password.
i: The {x} opens with the files of somebody else.
i: The {x} throws me out right after the code is entered.
p: My {x} gets locked every {day}, the help desk resets it each time.
p: Rights in the {x} vanish again whenever the directory syncs.
p: For the {nth} time new staff have no {x} on their first day.
r: Please create a {x} for {n} interns who start on {day}.
r: I need access to the {x} of the {team} department.
r: How do I add a delegate to my {x}?
r: Could you list who can see the {x}?
c: Please rename my {x} after my move to {team}.
c: We want the {x} moved under the {city} unit.
c: Please take leavers off the {x} and give their rights to {team}.
# Laptop, Hardware | work laptop; docking station at my desk; second monitor; keyboard; battery; company phone; headset; meeting room screen | the asset number on the sticker; the operating system version; the time you are at your desk
i: My {x} stays black since the update last night.
i: The {x} fell silent at {time} and shows {code}.
i: The {x} smells burnt, I have unplugged it.
i: The {x} is no longer recognised after it was moved to {city}.
i: My {x} shut down by itself and does not charge.
p: The {x} wakes up with a flicker every day, new cables did not cure it.
p: Third {x} within a year with the same crack, something is wrong with the series.
p: The {x} freezes each time I join a call, week in, week out.
r: I would like a {x} for my home office.
r: Could I borrow a {x} for the trade fair in {city}?
r: Please order {n} of the {x} model for new colleagues in {team}.
r: Which {x} do you advise for design work?
c: Please swap my {x} for a lighter one at the next refresh.
c: We move desks on {day} and need each {x} reconnected in {city}.
c: Please reinstall my {x} with the English language pack.
# VPN, Access | VPN client; remote gateway; home office connection; token app; Wi-Fi at the office; proxy setting; network drive; terminal session | your location and provider; the client version and the log file; the result over a phone hotspot
i: The {x} refuses to connect from {city} since {time}, {code}.
i: My {x} disconnects after {n} seconds today.
i: The {x} is stuck on connecting for the entire {team} team.
i: No page loads once the {x} is on.
i: The {x} asks for a certificate that nobody has.
p: The {x} breaks every time I change rooms, new drivers have not helped.
p: Each {day} the {x} crawls, could you find what is behind it?
p: The {x} keeps falling back to the slow route, it was reported in {month} already.
r: How do I set up the {x} on a private tablet?
r: Please enable the {x} for a contractor until {month}.
r: Could you send the {team} team instructions for the {x}?
r: May I use the {x} while travelling to {city}?
c: Please put me in the {city} profile of the {x}.
c: We want the {x} to start by itself at login.
c: Please change the {x} to split traffic for {team}.
# Email, Software | mail client; office suite; calendar; antivirus; browser; printer on floor {n}; chat tool; signature template | the version under the help menu; a screenshot of the error; the name of your computer
i: The {x} will not open, it closes with {code}.
i: My {x} lost all entries after the move last night.
i: The {x} blocks every attachment since {time}.
i: The {x} prints blank sheets for everyone here.
i: The {x} says that it is offline although the network works.
p: The {x} asks for my password again and again, reinstalling changed nothing.
p: Invitations from the {x} go missing regularly, who can find the cause?
p: The {x} jams or hangs about every second day since {month}.
r: Please install the {x} on {n} computers in {team}.
r: Can I get an older version of the {x} for one file?
r: How do I move my settings of the {x} to the new laptop?
r: I need the {x} in Spanish for a guest.
c: Please change the {x} to the new company name.
c: We want the {x} updated to {version} outside office hours.
c: Please make the {x} on floor {n} the default for {team}.
"""

SERVICE_OUTAGES = """
# Outage, Disruption | customer portal; online shop; booking platform; payment page; phone system; cloud console; public website; ticket portal | the region and the time it began; the error page shown; the share of users hit
i: The {x} is unreachable from {city} since {time}.
i: Total outage of the {x}, users see {code}.
i: The {x} has been offline for {n} minutes and the status page says all is well.
i: We cannot load the {x} in any browser, {code}.
i: The {x} went down right after the maintenance of last night.
p: The {x} has gone down {n} times since {month}, we ask for a cause report.
p: Short outages of the {x} return every {day}, what is done about them?
p: After each maintenance the {x} is unstable for hours, a pattern by now.
r: When will the {x} be back, is there an estimate?
r: Please add us to the outage notices of the {x}.
r: Could you share the availability of the {x} in {month}?
r: Will the {x} be up during our event in {city}?
c: Please move the maintenance of the {x} away from {day}.
c: We want the alert threshold of the {x} set to {n} errors a minute.
c: Please reschedule the downtime of the {x} to {time}.
# Maintenance, Disruption | maintenance window; failover test; database upgrade; data centre move; power test in {city}; network freeze; cooling repair; patch night | the change number; the systems on your side that depend on it; a contact for that night
i: The {x} overran and our service is still down at {time}.
i: Nobody told us of the {x} and all sessions were cut.
i: During the {x} the standby did not take over, {code}.
i: The {x} left {n} services stopped.
i: Since the {x} ended our site in {city} has no connection.
p: Every {x} takes down the same service, for the {nth} time now.
p: We repeatedly hear of the {x} only afterwards, please find where notices get lost.
p: The {x} keeps ending later than planned, what is the reason?
r: Please send the timetable of the {x}.
r: Which services are touched by the {x}?
r: Could you confirm that the {x} leaves {city} alone?
r: We need {n} days of notice of the {x}, how is that arranged?
c: Please postpone the {x}, our year-end closing falls on {day}.
c: We ask to split the {x} over two nights.
c: Please shift the {x} from {time} to {time}.
# Monitoring, Outage | status page; monitoring agent; uptime probe; alarm text message; on-call list; heartbeat check; incident feed; health dashboard | the probe and its target; the time of the missed alarm; who should receive alarms
i: The {x} shows green while everything is down.
i: The {x} has sent nothing since {time} although {city} failed.
i: The {x} fires {n} alarms a minute since the outage.
i: The {x} itself is not reachable, {code}.
i: The {x} reports {city} as down, which it is not.
p: The {x} misses an outage every few weeks, we want the underlying fault removed.
p: False alarms of the {x} wake the team each night since {month}.
p: The {x} is always {n} minutes late, it was said to be fixed twice.
r: How can we add a service to the {x}?
r: Please give the {team} team access to the {x}.
r: Is there a feed of the {x} that our tools can read?
r: Could you explain what yellow means on the {x}?
c: Please send the {x} to {team} instead of {team}.
c: We want the {x} to run every {n} seconds.
c: Please silence the {x} during the works in {city}.
# Cloud, Performance | cloud region in {city}; content network; storage service; streaming cluster; internet line; power supply; cooling in {city}; mobile network | the region and the account; the time of the first failure; the load at that moment
i: The {x} failed at {time} and took our shop with it.
i: We see massive packet loss in the {x} at the moment.
i: The {x} is degraded, uploads end with {code}.
i: The {x} broke down and the generator did not start.
i: All our services in the {x} are gone since {time}.
p: The {x} reaches its limit every {day} evening and then collapses.
p: Fourth failure of the {x} this year, we need to know the common cause.
p: The {x} recovers and fails again in a cycle of about {n} minutes.
r: What backup does the {x} have?
r: Could we get a report on the last failure of the {x}?
r: Do you offer a second {x} close to {city}?
r: Please tell us whom to call at night about the {x}.
c: Please move our services from the {x} to {city}.
c: We want the {x} doubled before {month}.
c: Please take the {x} out of rotation until {day}.
"""

SHARED = """
# Software, Performance | system; application; software; platform; program; service; tool; main screen | the version and the time of the fault; a screenshot and the steps taken; the names of those affected
i: The {x} does not work any more and just shows {code}.
i: The {x} has been extremely slow since {time}.
i: We cannot log in to the {x}, it says {code}.
i: The {x} crashed at {time} and data may be missing.
i: Unexpectedly {code} appears in the {x}.
i: The {x} stopped working after the update to {version}.
i: Pages in the {x} take {n} seconds to load today.
i: The {x} hangs when a file is saved.
p: The {x} crashes every few days and nobody has found out why.
p: The same message, {code}, returns in the {x} again and again.
p: The {x} keeps getting slower from week to week.
p: Login to the {x} fails regularly, always on {day}.
p: We report the {x} for the {nth} time, please find the root cause.
r: Could you tell us how to set up the {x} for {n} users?
r: We need information on what the {x} can do.
r: Please give a new colleague in {team} access to the {x}.
r: Is there a guide to the {x}?
r: Which version of the {x} do you recommend?
r: How can we use the {x} together with other tools?
c: Please change the settings of the {x} for {team}.
c: We want the {x} updated to {version}.
c: Please move the {x} to the new environment in {city}.
c: Please increase the limit of the {x} from {n} to {n}.
ip: There is trouble with the {x}, it fails with {code}.
ip: We have difficulties with the {x} in {city}.
ip: The {x} does not behave as it should, {code} turns up.
ip: Users in {team} complain about the {x}.
rc: We would like the {x} to be available in {city} as well.
rc: Could the {x} be extended for {n} people?
rc: We need more room in the {x}.
# Data, Security | data; user list; report; file storage; login page; interface; connection; configuration | what you expected to see; the user and the time; the log of that day
i: The {x} is gone since this morning, {code}.
i: The {x} shows wrong values after yesterday's work.
i: The {x} cannot be opened by anyone in {team}.
i: Something broke in the {x} at {time}.
i: The {x} reports {code} since the restart.
i: Our {x} seems to have been changed by a stranger.
i: The {x} is not available from {city}.
i: The {x} disappeared while {n} people were working.
p: The {x} is wrong time after time, each correction lasts a day.
p: Something damages the {x} every {day}, we look for the reason.
p: We have had trouble with the {x} since {month}, on and off.
p: Errors in the {x} recur after each restart.
p: The {x} fails under load again, a lasting solution is needed.
r: Please advise how to secure the {x}.
r: Can you send us a copy of the {x}?
r: How often is the {x} checked?
r: We would like an overview of the {x} for {team}.
r: Could somebody look over our {x} and suggest improvements?
r: Who may see the {x}?
c: Please adjust the {x} for our new structure.
c: We want the {x} reset to the state of {month}.
c: Please replace the {x} with the one from {city}.
c: Please restrict the {x} to {team}.
ip: Something is wrong with the {x}, see {code}.
ip: The {x} gives us a headache, it is not reliable.
ip: Since {month} the {x} is not right.
ip: The {team} team cannot rely on the {x}.
rc: We would like {team} to be able to see the {x}.
rc: Could you set the {x} up in another way for {city}?
rc: Please have the {x} ready for {n} more users.
"""
